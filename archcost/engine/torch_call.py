"""Calls back into PyTorch: for what the engine has no operator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from archcost.trace.graph import Argument

__all__ = ["Slot", "TorchCall", "function"]


@dataclass(frozen=True, eq=False)
class TorchCall:
    """An operator of PyTorch that the engine has no kernel for, called as the model calls it."""

    name: str
    args: tuple[Argument, ...]
    """Tensors stand in it as `Slot`."""
    kwargs: dict[str, Argument] = field(default_factory=dict)
    result: int | None = None
    """Which of its results; None where it has one."""

    def reference(self, *inputs: Tensor) -> Tensor:
        found = function(self.name)(
            *_filled(self.args, inputs), **{key: _filled(value, inputs) for key, value in self.kwargs.items()}
        )
        made: Tensor = found if self.result is None else found[self.result]
        return made


@dataclass(frozen=True)
class Slot:
    """The place of an input among the arguments of a `TorchCall`."""

    index: int


def function(name: str) -> Any:
    """The operator of PyTorch by the name that a Trace has for it."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _filled(value: Any, inputs: Sequence[Tensor]) -> Any:
    """Arguments with tensors in place of slots."""
    if isinstance(value, Slot):
        return inputs[value.index]
    if isinstance(value, (tuple, list)):
        return type(value)(_filled(item, inputs) for item in value)
    return value
