"""Outputs of a model, and their error against a float64 copy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from math import inf

import torch
from torch import nn

from archcost.errors import ArchcostError
from archcost.surgery.copying import copied
from archcost.trace.call import Call, Inputs
from archcost.trace.inputs import tensors_in

__all__ = ["error_of", "exact_outputs", "fresh", "outputs_of", "state_kept", "worst_error"]


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
    """The outputs of a float64 copy, or the ``plain`` ones where it cannot run, with a word on which they
    are."""
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
