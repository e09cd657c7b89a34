"""Program: in the place of a module that only convolves, normalises, adds and clamps: a residual block."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from archcost.rewriting.accelerating.path_conv import PathConv, seen_from_outside
from archcost.rewriting.accelerating.runners import Clamp

__all__ = ["Program", "Step"]

_TABLES = ("_parameters", "_buffers", "_modules")


class Step(NamedTuple):
    """One more value: that of a convolution, with its batch normalisation, or of an earlier one; then a sum,
    then a clamp."""

    keys: tuple[str, ...]
    """The convolution, by its names below the module; empty where there is none."""
    reads: int
    """Which value: 0 is the input, and each step makes the next one."""
    adds: int | None
    clamp: Clamp
    """Where nothing is added to a convolution, its own epilogue clamps."""
    drops: tuple[int, ...] = ()
    """Values that nobody reads any more."""


class Program(nn.Module):
    """Its convolutions alone, one behind the other, which do the rest as they write; in training mode by
    PyTorch's operations.

    It has the attributes and children of the module that it stands for, some of them others: names and
    ``state_dict`` stay.
    """

    def __init__(self, module: nn.Module, steps: tuple[Step, ...], children: dict[str, nn.Module]) -> None:
        super().__init__()
        own = frozenset(vars(self))
        vars(self).update({key: value for key, value in vars(module).items() if key not in own})
        self._modules = _twin(module, children)._modules
        self.training = module.training
        self.stands_for = type(module)
        self._steps = steps

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if len(given) != 1:
            raise TypeError(f"{self.stands_for.__name__} takes one input, got {len(given)}")
        seen = seen_from_outside()
        values: list[Any] = [*given]
        for keys, reads, adds, clamp, drops in self._steps:
            x, addend = values[reads], None if adds is None else values[adds]
            if not keys:
                y = _finished(x, addend, clamp)
            else:
                module: Any = self
                for key in keys:
                    module = module._modules[key]
                run = module.runner(x, clamp) if type(module) is PathConv and not seen else None
                if run is not None:
                    y = run(x, addend)
                else:
                    y = module(x)
                    y = y if addend is None else _finished(y, addend, clamp)
            values.append(y)
            for place in drops:
                values[place] = None
        return values[-1]

    def extra_repr(self) -> str:
        return f"in the place of {self.stands_for.__name__}"


def _finished(y: torch.Tensor, addend: torch.Tensor | None, clamp: Clamp) -> torch.Tensor:
    if addend is not None:
        y = y + addend
    if clamp == (0, inf):
        return F.relu(y)
    return y if clamp is None else F.hardtanh(y, *clamp)  # unlike clamp's, its gradient is 0 at the limits


def _twin(module: nn.Module, children: dict[str, nn.Module]) -> nn.Module:
    """The same module with other descendants, by name: what holds them is made anew, all else is shared."""
    twin = type(module).__new__(type(module))
    vars(twin).update({k: dict(v) if k in _TABLES else v for k, v in vars(module).items()})
    for key, child in module._modules.items():
        below = {name[len(key) + 1 :]: one for name, one in children.items() if name.startswith(f"{key}.")}
        if key in children:
            twin._modules[key] = children[key]
        elif below and child is not None:
            twin._modules[key] = _twin(child, below)
    return twin
