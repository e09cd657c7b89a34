"""The algorithms for convolutions on small arrays, stage by stage, to be printed and drawn.

Each takes an input and a kernel, and returns `Steps`: every stage with its numbers and a sentence on it, and
the output, that of ``torch.nn.functional.conv2d``. `archcost.convolve` is for arrays of any size.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
