"""The compiled kernels behind the fast paths: optional, plain C called through ctypes, float32, on the CPU.

`library` gives the loaded library, or None, and then `why_not` says why; neither needs torch. Weights are
transformed and packed once (`pack_winograd`, `pack_fourier`, `pack_depthwise`, `pack_depthwise_direct`,
`pack_im2col`, `pack_long_row`), then used with any input (`run`).
"""

import lazy_loader

# The public names stand in __init__.pyi; what takes tensors loads torch when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
