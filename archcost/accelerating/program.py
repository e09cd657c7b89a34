"""Program: in the place of a module that only convolves, normalises, adds, clamps, pools and concatenates:
a residual block, or branches that are concatenated."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from archcost.accelerating.pooling import Pool
from archcost.accelerating.siblings import Siblings
from archcost.nn.path_conv import PathConv, seen_from_outside
from archcost.nn.runners import Clamp, KernelRunner

__all__ = ["Program", "Step"]

_TABLES = ("_parameters", "_buffers", "_modules")


class Step(NamedTuple):
    """One more value: that of a convolution, with its batch normalisation, of a pooling, of a concatenation,
    or an earlier one; then a sum, then a clamp."""

    keys: tuple[str, ...]
    """The convolution, by its names below the module; empty where there is none."""
    reads: tuple[int, ...]
    """Which values: 0 is the input, and each step makes the next one. Several are concatenated along the
    channels."""
    adds: int | None
    clamp: Clamp
    """Where nothing is added to a convolution, its own epilogue clamps."""
    drops: tuple[int, ...] = ()
    """Values that nobody reads any more."""
    pool: Pool | tuple[str, ...] | None = None
    """The pooling: a function's, or a module's by its names below the module."""
    widths: tuple[int, ...] = ()
    """The channels of each value that it concatenates."""
    place: tuple[int, int] | None = None
    """Of what only a concatenation reads: that step, and the first of its channels to write to."""


_THERE = object()
"""The value lies in its place already."""


class Program(nn.Module):
    """Its convolutions alone, one behind the other, which do the rest as they write; in training mode by
    PyTorch's operations.

    It has the attributes and children of the module that it stands for, some of them others: names and
    ``state_dict`` stay. Where somebody has hooked into one of these, the code of that module runs.
    """

    def __init__(
        self,
        module: nn.Module,
        steps: tuple[Step, ...],
        children: dict[str, nn.Module],
        siblings: Iterable[tuple[int, ...]] = (),
    ) -> None:
        super().__init__()
        own = frozenset(vars(self))
        vars(self).update({key: value for key, value in vars(module).items() if key not in own})
        twin = _twin(module, children)
        self._modules = twin._modules
        self.training = module.training
        self.stands_for = type(module)
        self._steps = steps
        # In tuples and tables, because they are no children of its own.
        self._twin = (twin,)
        self._inner = tuple(one for one in twin.modules() if one is not twin and type(one) is not PathConv)
        self._pools = {
            number: step.pool.module()
            for number, step in enumerate(steps, start=1)
            if isinstance(step.pool, Pool)
        }
        self._siblings = {group[0]: Siblings(group) for group in siblings}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if len(given) != 1:
            raise TypeError(f"{self.stands_for.__name__} takes one input, got {len(given)}")
        for one in self._inner:
            if one._forward_hooks or one._forward_pre_hooks or one._backward_hooks or one._backward_pre_hooks:
                return self._as_written(given[0])
        seen = seen_from_outside()
        values: list[Any] = [*given, *[None] * len(self._steps)]
        for number, step in enumerate(self._steps, start=1):
            if not seen and number in self._siblings:
                self._together(self._siblings[number], values)
            if values[number] is None or step.widths:
                values[number] = self._value(number, step, values, seen)
            for place in step.drops:
                values[place] = None
        return values[-1]

    def joins(self, name: str) -> bool:
        """Whether the convolution of that name below it runs as one with others."""
        places = (place for one in self._siblings.values() for place in one.places)
        return any(".".join(self._steps[place - 1].keys) == name for place in places)

    def _value(self, number: int, step: Step, values: list[Any], seen: bool) -> Any:
        keys, reads, adds, clamp, _, pool, widths, place = step
        x, addend = values[reads[0]], None if adds is None else values[adds]
        if keys:
            module = self._below(keys)
            run = module.runner(x, clamp) if type(module) is PathConv and not seen else None
            if place is not None and isinstance(run, KernelRunner) and self._placed(run, x, place, values):
                return _THERE
            if run is not None:
                return run(x, addend)
            y = module(x)
            return y if addend is None else _finished(y, addend, clamp)
        if isinstance(pool, Pool):
            x = self._pools[number].forward(x)
        elif pool is not None:
            x = self._below(pool)(x)
        elif widths:
            x = _concatenated(values[number], [values[place] for place in reads], widths)
        return _finished(x, addend, clamp)

    def _placed(self, run: KernelRunner, x: torch.Tensor, place: tuple[int, int], values: list[Any]) -> bool:
        """Whether the kernel wrote to where a concatenation wants it."""
        end, first = place
        if values[end] is None:
            values[end] = run.begin(sum(self._steps[end - 1].widths))
        return values[end] is not None and run.into(x, values[end], first)

    def _together(self, siblings: Siblings, values: list[Any]) -> None:
        """The values of convolutions that run as one; nothing where they cannot."""
        steps = [self._steps[place - 1] for place in siblings.places]
        modules = [self._below(step.keys) for step in steps]
        made = siblings(modules, values[steps[0].reads[0]], steps[0].clamp)
        for place, value in zip(siblings.places, made, strict=False):
            values[place] = value

    def _below(self, keys: tuple[str, ...]) -> Any:
        module: Any = self
        for key in keys:
            module = module._modules[key]
        return module

    def _as_written(self, x: Any) -> Any:
        twin: Any = self._twin[0]
        twin.training = self.training
        return twin.forward(x)

    def extra_repr(self) -> str:
        return f"in the place of {self.stands_for.__name__}"


def _concatenated(whole: torch.Tensor | None, parts: list[Any], widths: tuple[int, ...]) -> torch.Tensor:
    """All of them along the channels, some of which may lie in the whole already."""
    if whole is None:
        return torch.cat(parts, 1)
    first = 0
    for part, width in zip(parts, widths, strict=True):
        if part is not _THERE:
            there = whole.narrow(1, first, width)
            if part.shape != there.shape or part.dtype is not there.dtype:
                slices = whole.split_with_sizes(widths, 1)
                return torch.cat([b if a is _THERE else a for a, b in zip(parts, slices, strict=True)], 1)
            there.copy_(part)
        first += width
    return whole


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
