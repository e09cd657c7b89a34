"""PyTorch's operators by name: their schemas, and the arguments of a recorded operation by name."""

from __future__ import annotations

import re
from functools import cache
from itertools import product
from operator import attrgetter
from typing import TYPE_CHECKING

from archcost.trace.graph import Kwargs, Op

if TYPE_CHECKING:
    from torch._ops import OpOverload


def named(words: str, namespace: str = "aten") -> tuple[str, ...]:
    """The full names of operators, with braces as in a shell: ``named("relu conv{1,2}d")``."""
    found: list[str] = []
    for word in words.split():
        parts = re.split(r"\{(.*?)\}", word)
        choices = (part.split(",") if i % 2 else [part] for i, part in enumerate(parts))
        found += (f"{namespace}.{''.join(choice)}" for choice in product(*choices))
    return tuple(found)


def arguments(op: Op) -> Kwargs:
    """The arguments of an operation by the names in its schema, without those that were not passed."""
    return dict(zip(_parameter_names(op.name), op.args, strict=False)) | op.kwargs


@cache
def _parameter_names(name: str) -> tuple[str, ...]:
    overload = find_overload(name)
    return () if overload is None else tuple(a.name for a in overload._schema.arguments)


@cache
def find_overload(name: str) -> OpOverload | None:
    """The operator overload with that name, ``"aten.add.Tensor"``; None where there is none."""
    import torch

    try:
        found: OpOverload = attrgetter(name)(torch.ops)
    except AttributeError:
        return None
    return found if hasattr(found, "_schema") else None
