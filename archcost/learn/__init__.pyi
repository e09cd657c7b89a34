from .fft import fft as fft
from .im2col import im2col as im2col
from .stages import Stage as Stage
from .steps import Steps as Steps
from .strassen import strassen as strassen
from .winograd import winograd as winograd
