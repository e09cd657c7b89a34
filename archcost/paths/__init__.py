"""Execution paths: every way to execute a convolution, one file each.

``available()`` lists them, ``get(name)`` is one, ``register(path)`` adds your own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archcost.paths.accuracy import relative_error as relative_error
    from archcost.paths.eligibility import Eligibility as Eligibility
    from archcost.paths.eligibility import eligible as eligible
    from archcost.paths.epilogue import Epilogue as Epilogue
    from archcost.paths.path import ExecutionPath as ExecutionPath
    from archcost.paths.path import Prepared as Prepared
    from archcost.paths.registry import available as available
    from archcost.paths.registry import get as get
    from archcost.paths.registry import register as register
    from archcost.paths.strassen import strassen_matmul as strassen_matmul

# Public name -> its module, imported when first used, so that asking for help loads no torch.
_HOMES = {
    "relative_error": "accuracy",
    "Eligibility": "eligibility",
    "eligible": "eligibility",
    "Epilogue": "epilogue",
    "ExecutionPath": "path",
    "Prepared": "path",
    "available": "registry",
    "get": "registry",
    "register": "registry",
    "strassen_matmul": "strassen",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'archcost.paths' has no attribute {name!r}")
    value = getattr(import_module(f"archcost.paths.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
