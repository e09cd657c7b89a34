"""The arguments of a recorded operation by the names that its operator gives them."""

from __future__ import annotations

from functools import cache
from typing import Any

from archcost.trace.graph import Op


def arguments(op: Op) -> dict[str, Any]:
    """The arguments of an operation by the names of its schema; those left out are not in it."""
    bound = dict(zip(_parameter_names(op.name), op.args, strict=False))
    bound.update(op.kwargs)
    return bound


@cache
def _parameter_names(name: str) -> tuple[str, ...]:
    overload = find_overload(name)
    return () if overload is None else tuple(a.name for a in overload._schema.arguments)


@cache
def find_overload(name: str) -> Any:
    """The framework's operator of that name, ``"aten.add.Tensor"``; None where there is none."""
    import torch

    found: Any = torch.ops
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            return None
    return found if hasattr(found, "_schema") else None
