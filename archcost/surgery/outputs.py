"""What a model gives for its inputs, and how far that is from the same in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from math import inf
from typing import Any

import torch
from torch import nn

from archcost.errors import ArchcostError
from archcost.surgery.copying import copied
from archcost.trace.call import Call
from archcost.trace.inputs import tensors_in

__all__ = ["error_of", "exact_outputs", "fresh", "outputs_of", "state_kept", "worst_error"]


def fresh(inputs: Any) -> Call:
    """The arguments of a call, cloned: a model may write into its input."""
    return Call.of(inputs).cloned()


def outputs_of(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    """All tensors among its outputs, in order."""
    args, kwargs = fresh(inputs)
    with torch.no_grad():
        return tensors_in(model(*args, **kwargs))


def exact_outputs(model: nn.Module, inputs: Any, plain: list[torch.Tensor]) -> tuple[list[torch.Tensor], str]:
    """Those of a float64 copy; where there can be none the ``plain`` ones, and what they are in words."""
    try:
        twin = copied(model).double()
        args, kwargs = fresh(inputs).mapped(lambda t: t.double() if t.is_floating_point() else t)
        with torch.no_grad():
            found = tensors_in(twin(*args, **kwargs))
    except (ArchcostError, RuntimeError, TypeError, ValueError, MemoryError):
        return plain, "original"  # its code asks for float32, or it cannot be copied
    if [one.shape for one in found] != [one.shape for one in plain]:
        return plain, "original"
    return found, "original in float64"


def worst_error(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """max |y - exact| / max |exact| of the worst output; infinite where they are not comparable.

    What is infinite or not a number in both is equal; whole numbers and truths are not looked at.
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
    """max |y - exact| / max |exact|, over what is finite; infinite where the rest is not the same in both."""
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
    """Values of buffers and the random state are put back on leaving."""
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
