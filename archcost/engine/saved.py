"""Saved: what `accelerate` chose for a model, kept in a file of JSON, so that nothing is measured again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from archcost.engine.acceleration import Acceleration
from archcost.engine.choosing import Times
from archcost.engine.exactness import Banned
from archcost.latency.store.fingerprint import fingerprint
from archcost.trace.call import Call, Inputs
from archcost.trace.inputs import example, map_tensors
from archcost.trace.modules import named_state, walk

__all__ = ["Saved", "architecture"]


@dataclass(frozen=True)
class Example:
    """A tensor of a call, but for its elements."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Saved:
    """The contents of a file."""

    machine: str
    """The hash of the machine's fingerprint."""
    device: str
    """The same in words."""
    call: Call
    """The call that the program is for, with an `Example` for each tensor."""
    modules: dict[str, str]
    """Names and classes of the model's modules."""
    state: dict[str, tuple[int, ...]]
    """Shapes of its parameters and buffers."""
    times: Times
    """Seconds of the variants of layers, by which they are chosen."""
    banned: Banned
    """Variants that are not exact enough, or need too much memory."""
    acceleration: Acceleration

    @classmethod
    def of(
        cls, model: nn.Module, call: Call, times: Times, banned: Banned, acceleration: Acceleration
    ) -> Saved:
        """With the model and the machine as they are."""
        machine, modules_and_state = fingerprint(), architecture(model)
        described = Call(*map_tensors(tuple(call), _described))  # type: ignore[arg-type]
        return cls(machine.hash, str(machine), described, *modules_and_state, times, banned, acceleration)

    def example(self) -> Call:
        """The call with tensors as `archcost.trace.inputs.example` makes them."""
        args, kwargs = self.call
        return Call(tuple(_value(one) for one in args), {key: _value(one) for key, one in kwargs.items()})


def architecture(model: nn.Module) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Names and classes of modules below a model, shapes of parameters and buffers."""
    tree = walk(model)
    state = {
        f"{owner}.{key}" if owner else key: tuple(tensor.shape) for owner, _, key, tensor in named_state(tree)
    }
    return {name: type(module).__qualname__ for name, module in tree.modules.items() if name}, state


def _described(tensor: torch.Tensor) -> Example:
    return Example(tuple(tensor.shape), tensor.dtype)


def _value(held: Inputs) -> Inputs:
    if isinstance(held, Example):
        return example(held.shape, held.dtype, "cpu")
    if isinstance(held, (tuple, list)):
        return type(held)(map(_value, held))
    if isinstance(held, dict):
        return {key: _value(item) for key, item in held.items()}
    return held
