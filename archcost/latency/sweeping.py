"""`sweep`: what a model costs at many input sizes, batches and dtypes; on request also how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from archcost.analysis.points import side_of
from archcost.analysis.reports.sweep import side_text
from archcost.analysis.sweep import Grid, Sweep, SweepPoint, Swept, counted
from archcost.errors import ArchcostError, InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.trace.inputs import InputSize

__all__ = ["sweep"]


def sweep(
    model: nn.Module | str | Callable[[InputSize], nn.Module],
    input_size: InputSize | Iterable[InputSize] | None = None,
    *,
    batch: int | Iterable[int] | None = None,
    dtype: str | torch.dtype | Iterable[str | torch.dtype] | None = None,
    measure: bool = False,
    seconds: float = 2.0,
    threads: int | None = None,
    memory: str | int | None = None,
    optimizer: str = "adamw",
    yes: bool = False,
    progress: bool | None = None,
) -> Sweep:
    """What a model costs at many input sizes, batches and dtypes, and how its costs grow.

    Nothing is computed unless ``measure``; each point is a forward pass on the device `meta`.

    Args:
        model: a module, a SPEC, or a function that makes the model for an input size. A model of torchvision
            or timm that refuses a size is built anew for it where its constructor takes one.
        input_size: the points: shapes such as ``[(1, 3, s, s) for s in range(128, 513, 32)]``, or whole
            numbers, each a side of the model's own input. By default that input alone.
        batch: batches that take the place of the first axis.
        dtype: dtypes of weights and inputs; MACs do not depend on them, bytes do.
        measure: run each point as well, for its latency and throughput.
        seconds: the wall time that measuring each point may take.
        threads: threads of PyTorch while measuring; by default as many as it has now.
        memory: with a size such as ``"8 GB"``, the answer says which batches fit into it at the largest side.
        optimizer: that of the training that has to fit into ``memory``, as in `archcost.largest_batch`.
        yes: count more than 10,000 points.
        progress: draw a progress bar on stderr; by default on a terminal.

    Returns:
        A point for each combination, also where the model does not run, with the reason.

    Raises:
        InputError: an argument makes no sense, there are more than 10,000 points, or the model runs at none.
        SpecError: the SPEC names nothing that can be loaded.
    """
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
        raise InputError(f"sweep: seconds must be a number above 0; got {seconds!r}")
    grid = Grid.of(input_size, batch, dtype)
    timed = _Timing(model, seconds, threads) if measure else None
    found = counted(model, grid, yes, progress, timed)
    if timed is not None:
        from archcost.latency.store.fingerprint import fingerprint

        found = replace(found, device=str(fingerprint()))
    if memory is not None:
        found = replace(found, answers=_fitting(model, found, memory, optimizer))
    return found


def _fitting(model: Swept, found: Sweep, memory: str | int, optimizer: str) -> tuple[str, ...]:
    """The batches that fit into a memory at the largest side that runs, in a sentence."""
    from archcost.analysis.largest import largest_batch

    size = max((one for one in found if one.reason is None), key=lambda one: one.side).input_size
    parts = []
    for training, use in ((True, f"training with {optimizer}"), (False, "inference")):
        try:
            most = largest_batch(model, size, memory=memory, training=training, optimizer=optimizer)
            parts.append(f"{most.value} for {use}")
        except ArchcostError as error:
            parts.append(f"none for {use} ({str(error).partition(': ')[2]})")
    return (f"At {side_text(side_of(size))} px {memory} hold a batch of {' and '.join(parts)}.",)


class _Timing:
    """The function that times a point: its model may lie on `meta`, and is then built with values."""

    def __init__(self, given: object, seconds: float, threads: int | None) -> None:
        self.given, self.seconds, self.threads = given, seconds, threads
        self.built: nn.Module | None = None

    def __call__(self, model: nn.Module, point: SweepPoint) -> SweepPoint:
        from archcost.latency.requests import time_requests
        from archcost.trace import inputs
        from archcost.trace.call import Call
        from archcost.trace.modules import walk

        try:
            runnable = self._with_values(model, point)
            made = inputs.make(point.input_size, None, inputs.dtype_of(walk(runnable)), "cpu")
            call = Call(*made)
            found = time_requests(runnable, call, point.batch, seconds=self.seconds, threads=self.threads)
        except ArchcostError as error:
            return replace(point, notes=(*point.notes, f"{point.input_text} was not timed: {error}"))
        if found is None:
            few = f"{point.input_text} was not timed: no time for five passes in {self.seconds:g} s"
            return replace(point, notes=(*point.notes, few))
        return replace(
            point, latency_ms=found.median_ms, latency_spread_ms=found.spread_ms, throughput=found.throughput
        )

    def _with_values(self, model: nn.Module, point: SweepPoint) -> nn.Module:
        import torch

        from archcost.models.specs import load, load_for

        if not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            return model
        if isinstance(self.given, torch.nn.Module):
            raise InputError("only the dtype that the module has can be timed")
        if not isinstance(self.given, str):
            raise InputError("its weights are on `meta`")
        dtype = getattr(torch, point.dtype, None)
        if self.built is None or next(self.built.parameters()).dtype != dtype:
            self.built = load(self.given, dtype=dtype).model
        shapes = [tuple(one.shape) for one in model.parameters()]
        if [tuple(one.shape) for one in self.built.parameters()] == shapes:
            return self.built
        found = load_for(self.given, round(side_of(point.input_size)), without_values=False)
        if found is None:
            raise InputError("its weights are on `meta`")
        return found.to(dtype)
