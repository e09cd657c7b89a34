"""Pictures by matplotlib (the extra ``plots``), without pyplot and so without global state.

For receptive fields, `growth` draws the size over depth, `window` the window of a position over an image, and
`stack` how the windows of stacked layers add up. For execution paths, `im2col` draws the matrix, `tiles` the
tiles of the Fourier and Winograd paths, `winograd` the transforms, `strassen` the seven products. For kernels
as filters, `spectrum` draws their bands by layer and their responses. `block` draws the layers and branches
of a block with what each costs, `sweep` how costs grow with the input size, `zoo` measured models by latency
and accuracy.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
