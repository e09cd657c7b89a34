"""archcost: what a convolutional PyTorch model costs, what could be cheaper, and the change done for you."""

from typing import Any

import lazy_loader

# The public names stand in __init__.pyi, and are imported when first used: torch takes a second.
_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("archcost")
    return _lazy(name)
