"""Execution paths: every way to execute a convolution, one file each.

``available()`` lists their names, ``get(name)`` returns a path, ``register(path)`` adds your own.
"""

import lazy_loader

# The public names stand in __init__.pyi: asking for help loads no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
