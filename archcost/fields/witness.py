"""The witness: NaN is planted in the input of the real model, and must reach a position, or must not.

Whatever is computed from a NaN is NaN, so one that lies outside the claimed window must leave the output
clean, and one on its first or last pixel must spoil it. The model runs in float64 on the framework's
reference kernels: fast ones (Winograd, blocked layouts) may spread a NaN to neighbours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from archcost.errors import ModelError
from archcost.fields.field import ReceptiveField, Window
from archcost.trace.inputs import map_tensors

__all__ = ["Planted", "Witness", "bear_witness"]


@dataclass(frozen=True)
class Planted:
    """One run: where NaN was put along an axis, whether it had to reach the position, and whether it did."""

    axis: int
    pixels: tuple[Window, ...]
    must_reach: bool
    reached: bool

    @property
    def agrees(self) -> bool:
        return self.must_reach == self.reached

    def __str__(self) -> str:
        where = " and ".join(f"{lo}" if lo == hi else f"{lo} to {hi}" for lo, hi in self.pixels)
        did = "reached" if self.reached else "did not reach"
        must = "must" if self.must_reach else "must not"
        return f"axis {self.axis}: NaN at {where} {did} the position; it {must}"


@dataclass(frozen=True)
class Witness:
    """What the real model said of one claimed window."""

    runs: tuple[Planted, ...]

    @property
    def agrees(self) -> bool:
        return all(run.agrees for run in self.runs)

    def __str__(self) -> str:
        wrong = [str(run) for run in self.runs if not run.agrees]
        if not wrong:
            return f"the model agrees: {len(self.runs)} runs with NaN inside or outside the window"
        return "the model DISAGREES: " + "; ".join(wrong)


def bear_witness(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    field: ReceptiveField,
    dims: tuple[int, ...],
    places: tuple[int, ...],
    output: int = 0,
    call: int = 0,
) -> Witness:
    """Hold the window of ``field`` against the model itself.

    Args:
        dims: the dimensions of the input tensor that are the field's axes.
        places: the dimensions of the layer's output that ``field.position`` counts along.
        output: which tensor of the layer's output, in order.
        call: which call of the layer.

    Raises:
        ModelError: the model cannot run in float64, or gives NaN without any planted.
    """
    with _reference(model) as reference:
        clean = map_tensors((args, kwargs), _double)
        target = _leaves(clean)[field.input_index]

        def run(plant: Callable[[torch.Tensor], None] | None) -> torch.Tensor:
            changed = target.clone()
            if plant is not None:
                plant(changed)
            given = map_tensors(clean, lambda t: changed if t is target else t.clone())
            out = _output_of(reference, given, field.layer, output, call)
            index: list[Any] = [slice(None)] * out.dim()
            for dim, at in zip(places, field.position, strict=True):
                index[dim] = at
            return out[tuple(index)]

        before = run(None)
        if before.isnan().any():
            raise ModelError(
                f"{type(model).__name__}: {field.layer or 'its output'} is NaN without any planted, so NaN "
                f"can bear no witness; give it weights and inputs that give finite values"
            )
        runs = []
        for axis, dim in enumerate(dims):
            size, (lo, hi) = field.input_size[axis], field.window[axis]
            inside = [] if lo > hi else [(lo, lo), (hi, hi)]
            outside = [(0, size - 1)] if lo > hi else [(0, lo - 1), (hi + 1, size - 1)]
            for pixels in ([pixel] for pixel in inside):
                runs.append(_planted(run, before, axis, dim, pixels, True))
            beyond = [pixels for pixels in outside if pixels[0] <= pixels[1]]
            if beyond:
                runs.append(_planted(run, before, axis, dim, beyond, False))
    return Witness(tuple(runs))


def _planted(
    run: Callable[[Callable[[torch.Tensor], None]], torch.Tensor],
    before: torch.Tensor,
    axis: int,
    dim: int,
    pixels: list[Window],
    must_reach: bool,
) -> Planted:
    def fill(value: float) -> Callable[[torch.Tensor], None]:
        def plant(x: torch.Tensor) -> None:
            for lo, hi in pixels:
                x.narrow(dim, lo, hi - lo + 1).fill_(value)

        return plant

    reached = bool(run(fill(float("nan"))).isnan().any())
    if reached and not must_reach:
        # Zero times NaN is NaN: a tap whose weight is exactly zero (interpolation has them) reads nothing.
        reached = any(not torch.equal(run(fill(value)), before) for value in (0.37, -2.9))
    return Planted(axis, tuple(pixels), must_reach, reached)


def _leaves(value: Any) -> list[torch.Tensor]:
    """The tensors in a structure, in order."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return found


def _double(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().clone()
    return tensor.double() if tensor.is_floating_point() else tensor


@contextmanager
def _reference(model: nn.Module) -> Iterator[nn.Module]:
    """A copy in float64, on kernels that compute each output from its own inputs alone."""
    try:
        reference = copy.deepcopy(model).double()
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__}: cannot be copied in float64 for the witness: {error}"
        ) from error
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), torch.random.fork_rng():
            yield reference
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Reached(Exception):
    """The layer's output is there; the rest of the model need not run."""


def _output_of(model: nn.Module, given: Any, layer: str, output: int, call: int) -> torch.Tensor:
    found: list[torch.Tensor] = []
    calls = 0

    def keep(module: nn.Module, inputs: Any, result: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            found.append(_leaves(result)[output].detach().clone())
            raise _Reached

    torch.manual_seed(0)  # a model that draws at random draws the same in every run
    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        model(*given[0], **given[1])
    except _Reached:
        pass
    except RuntimeError as error:
        raise ModelError(f"{type(model).__name__}: cannot run in float64 for the witness: {error}") from error
    finally:
        handle.remove()
    if not found:
        raise ModelError(f"{type(model).__name__}: {layer!r} was not called again when the witness ran it")
    return found[0]
