from .drawing.growth import growth as growth
from .drawing.im2col import im2col as im2col
from .drawing.stack import stack as stack
from .drawing.strassen import strassen as strassen
from .drawing.tiles import tiles as tiles
from .drawing.window import window as window
from .drawing.winograd import winograd as winograd
