"""Costs and receptive fields of models: `analyze`, `compare`, `crosscheck`, and the results they return.

``crosscheck(model)`` compares archcost's counts with fvcore and FlopCounterMode.
"""

import lazy_loader

# The public names stand in __init__.pyi: asking for help loads no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
