"""Cheaper layers in place of a model's own: proposals by rules, a plan, and the rewritten model.

``available()`` lists the rules, ``get(name)`` is one, ``register(rule)`` adds your own.
"""

import lazy_loader

# The public names stand in __init__.pyi: asking for help loads no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
