"""Outputs of a model, and their error against those in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from math import inf
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from archcost.errors import ArchcostError, ModelError
from archcost.trace.call import Call, Inputs
from archcost.trace.inputs import tensors_in

__all__ = ["error_of", "exact_outputs", "fresh", "outputs_of", "state_kept", "worst_error"]


_MANY = 1 << 23
"""Weights of a linear layer that are converted at once."""


def fresh(inputs: Inputs) -> Call:
    """The arguments of a call, cloned, as a model may write into its input."""
    return Call.of(inputs).cloned()


def outputs_of(model: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    """All tensors among the model's outputs, in order, without gradients."""
    args, kwargs = fresh(inputs)
    with torch.no_grad():
        return tensors_in(model(*args, **kwargs))


def exact_outputs(
    model: nn.Module, inputs: Inputs, plain: list[torch.Tensor]
) -> tuple[list[torch.Tensor], str]:
    """The outputs in float64, or the ``plain`` ones where the model cannot run in it, with a word on which
    they are."""
    try:
        args, kwargs = fresh(inputs).mapped(_wide)
        with torch.no_grad(), _InFloat64(), _Given64():  # type: ignore[no-untyped-call]
            found = tensors_in(model(*args, **kwargs))
    except (ArchcostError, RuntimeError, TypeError, ValueError, MemoryError):
        return plain, "original"  # its code asks for float32, say
    if [one.shape for one in found] != [one.shape for one in plain]:
        return plain, "original"
    return found, "original in float64"


class _Given64(TorchFunctionMode):
    """Every function of PyTorch is given float64. Weights are converted where they are used, one after the
    other, those of large linear layers in parts: a copy of the model would take twice its memory."""

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if writes and args and args[0] is not _wide(args[0]):
            raise ModelError(f"{name} writes to a weight")  # its conversion would get it
        if func is F.linear and not kwargs and args[1].numel() > _MANY:
            x, weight, *bias = args
            rows = max(1, _MANY // weight.shape[1])
            parts = [one.split(rows) for one in (weight, *bias) if one is not None]
            return torch.cat([F.linear(_wide(x), *map(_wide, part)) for part in zip(*parts, strict=True)], -1)
        return func(*tree_map(_wide, args), **tree_map(_wide, kwargs or {}))


class _InFloat64(TorchDispatchMode):
    """The same for what their code calls, and for tensors that are made."""

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.ops.aten._to_copy.default:  # which would copy what was converted once more
            args = tree_map(_wide, args)
        return tree_map(_wide, func(*args, **tree_map(_wide, kwargs or {})))


def _wide(value: Any) -> Any:
    """A tensor of real numbers in float64, and so a dtype of them."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, torch.dtype):
        return torch.float64 if value.is_floating_point else value
    return value


def worst_error(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Largest max |y - exact| / max |exact| of all outputs; infinite where shapes differ.

    Infinities and NaNs in both are equal; integers and booleans are ignored.
    """
    if [one.shape for one in found] != [one.shape for one in exact]:
        return inf
    worst = 0.0
    for one, other in zip(found, exact, strict=True):
        if not other.is_floating_point() or not other.numel():
            continue
        worst = max(worst, error_of(one, other))
    return worst


def error_of(found: torch.Tensor, exact: torch.Tensor) -> float:
    """max |y - exact| / max |exact| over finite values; infinite where other values differ."""
    wide = torch.complex128 if exact.is_complex() else torch.float64
    found, exact = found.to(wide), exact.to(wide)
    same = (found == exact) | (found.isnan() & exact.isnan())
    finite = found.isfinite() & exact.isfinite()
    if not bool((same | finite).all()):
        return inf
    found, exact = found[finite], exact[finite]
    if not exact.numel():
        return 0.0
    off, largest = (found - exact).abs().max().item(), exact.abs().max().item()
    return off / largest if largest else (inf if off else 0.0)


@contextlib.contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Buffers and the random state are restored on leaving."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta]
    generator = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(generator)
        with torch.no_grad():
            for buffer, values in before:
                if buffer.shape == values.shape and not torch.equal(buffer, values):
                    buffer.copy_(values)
