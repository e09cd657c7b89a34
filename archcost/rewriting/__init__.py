"""Other layers in place of a model's own: the rules, the plan, and what it did.

``available()`` lists the rules, ``get(name)`` is one, ``register(rule)`` adds your own.
"""

import lazy_loader

# The public names stand in __init__.pyi: asking for help loads no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
