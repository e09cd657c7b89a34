"""Pictures by matplotlib (the extra ``plots``); no pyplot, so no global state.

Of receptive fields: `growth` draws the field over depth, `window` one window over an image, `stack` how
windows add up. Of execution paths: `im2col` the matrix, `tiles` those of the Fourier and Winograd paths,
`winograd` its transforms, `strassen` its seven products.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
