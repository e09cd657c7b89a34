"""accelerate: the same model, each convolution on the path and in the layout that is fastest here."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from archcost.errors import InputError, ModelError
from archcost.latency.deadline import Deadline
from archcost.latency.settings import settings
from archcost.latency.store import Store
from archcost.rewriting.accelerating.acceleration import Acceleration
from archcost.rewriting.accelerating.assembling import Stage
from archcost.rewriting.accelerating.finals import FEWEST_PASSES, Final, fastest
from archcost.rewriting.accelerating.layers import Kept, Layer, layers_of
from archcost.rewriting.accelerating.preparing import Asked, measured, network_of
from archcost.rewriting.accelerating.program import Step
from archcost.rewriting.accelerating.reporting import report, unchanged
from archcost.rewriting.surgery.copying import copied
from archcost.rewriting.surgery.outputs import state_kept
from archcost.trace.progress import Progress
from archcost.trace.run import record

__all__ = ["accelerate"]

Model = TypeVar("Model", bound=nn.Module)

# Of the time given, for layers; the rest is for whole models.
_FOR_LAYERS = 0.65


def accelerate(
    model: Model,
    inputs: Any,
    *,
    tolerance: float = 1e-4,
    inplace: bool = False,
    fold: bool = True,
    paths: list[str] | None = None,
    seconds: float = 60.0,
    threads: int | None = None,
    store: Store | None = None,
    keeps_nan: bool = True,
    progress: bool | None = None,
) -> Model:
    """The same model, faster: each convolution by the path and in the layout that were fastest here.

    Every distinct convolution is timed on every path that may serve it, in both layouts; layouts are chosen
    for the network as a whole; whole candidates are then timed against the original, and the fastest comes
    back, or the model as it was where none is faster than that beyond the noise. What was found is in its
    attribute ``acceleration``: ``print(model.acceleration)``.

    It remains a plain ``nn.Module`` with the same ``state_dict`` keys, that can be trained, pickled and
    copied. Its code and its hooks run many times while it is measured.

    Args:
        inputs: of the size and batch that it is to be fast for; a tuple is positional arguments, a dict is
            keyword arguments, anything else is the one argument.
        tolerance: the largest max |y - exact| / max |exact| of any layer and of the model's outputs that is
            good enough; exact is the original in float64.
        inplace: change the model itself, in place of a copy.
        fold: let convolutions do the batch normalisation and the activation behind them.
        paths: names of the paths to try; by default PyTorch's own and all with compiled kernels.
        seconds: how long it may take by the wall clock, the trace and two passes on top; what is not reached
            in time stays as it is. Where some dozens of passes of the whole model do not fit into it, nothing
            is measured, and the model comes back as it was.
        threads: of PyTorch, while measuring; by default as many as now.
        store: takes layers from there that were measured before, and puts new ones into it.
        keeps_nan: False lets PyTorch's pre-packed convolutions clamp as they write, as ``torch.compile``
            does when it freezes a model: faster, but ReLU then turns what is not a number into 0.
        progress: draw a progress bar on stderr; by default on a terminal.

    Raises:
        InputError: an argument makes no sense, or the inputs do not fit the model.
        ModelError: the model is in training mode, or cannot be traced.
        RewriteError: it cannot be copied.
        SpecError: no path has that name.
    """
    _check(model, tolerance, seconds)
    name = type(model).__name__
    with settings(threads=threads):
        now = torch.get_num_threads()
        trace = record(model, inputs, progress=progress)
        deadline = Deadline(seconds)
        work = model if inplace else copied(model)
        with state_kept(work), _long_lived():
            layers, kept, programs = layers_of(work, inputs, trace, fold)
            asked = Asked(name, inputs, tolerance, paths, now, store, keeps_nan, fold)
            if layers:
                acceleration = _accelerated(work, asked, trace, layers, programs, kept, deadline, progress)
            else:
                reason = "no convolution in it can be replaced" if kept else "it has no convolution"
                acceleration = unchanged(asked, kept, reason)
    work.acceleration = acceleration  # type: ignore[assignment]
    return work


def _accelerated(
    work: nn.Module,
    asked: Asked,
    trace: Any,
    layers: list[Layer],
    programs: dict[str, tuple[Step, ...]],
    kept: list[Kept],
    deadline: Deadline,
    progress: bool | None,
) -> Acceleration:
    with Progress(len({layer.task for layer in layers}) + 3, "accelerate: measuring", progress) as bar:
        stage = Stage(work)
        try:
            network = network_of(work, asked, trace, layers, programs)
            for_models = max((1 - _FOR_LAYERS) * deadline.left, FEWEST_PASSES * network.seconds)
            found = measured(stage, network, asked, deadline.before(for_models), bar.step)
            bar.step(label="accelerate: choosing layouts")
            final = Final(stage, asked, network, found, deadline)
            bar.step(label="accelerate: timing whole models")
            result = fastest(final)
        except BaseException:
            stage.close()
            raise
        bar.step()
    return report(asked, final, result, kept)


@contextlib.contextmanager
def _long_lived() -> Iterator[None]:
    """The garbage collector leaves alone what there is now: it runs between samples, and takes its time."""
    alone = gc.get_freeze_count() == 0
    if alone:
        gc.freeze()
    try:
        yield
    finally:
        if alone:
            gc.unfreeze()


def _check(model: Any, tolerance: Any, seconds: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"accelerate: model is {model!r}, expected a torch.nn.Module")
    for what, value in (("tolerance", tolerance), ("seconds", seconds)):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise InputError(f"accelerate: {what} must be a number above 0; got {value!r}")
    if model.training:
        raise ModelError(
            "accelerate: the model is in training mode, and paths are for inference: call model.eval() first "
            "(it can be trained afterwards)"
        )
