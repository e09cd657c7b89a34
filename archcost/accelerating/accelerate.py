"""accelerate: the same model, each convolution on the path and in the layout that is fastest here."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from archcost.accelerating.acceleration import Acceleration
from archcost.accelerating.assembling import Stage
from archcost.accelerating.finals import FEWEST_PASSES, Final, fastest
from archcost.accelerating.layers import Kept, Layer, layers_of
from archcost.accelerating.preparing import Asked, measured, network_of
from archcost.accelerating.program import Step
from archcost.accelerating.reporting import report, unchanged
from archcost.errors import InputError, ModelError, SpecError
from archcost.latency.store.store import Store, opened
from archcost.latency.timing.deadline import Deadline
from archcost.latency.timing.settings import settings
from archcost.models.specs import load
from archcost.progress import Progress
from archcost.surgery.copying import copied
from archcost.surgery.outputs import state_kept
from archcost.trace.call import like_traced
from archcost.trace.hints import traced
from archcost.trace.inputs import tensors_in
from archcost.trace.modules import as_written, check_model, check_values

__all__ = ["accelerate"]

Model = TypeVar("Model", bound=nn.Module)

# Of the time given, for layers; the rest is for whole models.
_FOR_LAYERS = 0.65


def accelerate(
    model: Model | str,
    inputs: Any = None,
    *,
    input_size: Any = None,
    tolerance: float = 1e-4,
    inplace: bool = False,
    fold: bool = True,
    paths: list[str] | None = None,
    seconds: float = 60.0,
    threads: int | None = None,
    store: Store | str | os.PathLike[str] | Literal[False] | None = None,
    keeps_nan: bool = True,
    weights: str | os.PathLike[str] | None = None,
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
        model: a module, or a SPEC such as ``"torchvision:resnet50"``, which `archcost.load` makes one of.
        inputs: of the size and batch that it is to be fast for; a tuple is positional arguments, a dict is
            keyword arguments, anything else is the one argument. Left out, random ones: of ``input_size``, or
            of what the model says of itself, which ``acceleration.notes`` tell.
        input_size: the shape of the input, batch included, where ``inputs`` are not given.
        tolerance: the largest max |y - exact| / max |exact| of any layer and of the model's outputs that is
            good enough; exact is the original in float64.
        inplace: change the model itself, in place of a copy.
        fold: let convolutions do the batch normalisation and the activation behind them.
        paths: names of the paths to try; by default PyTorch's own and all with compiled kernels.
        seconds: how long it may take by the wall clock, the trace and two passes on top; what is not reached
            in time stays as it is. Where some dozens of passes of the whole model do not fit into it, nothing
            is measured, and the model comes back as it was.
        threads: of PyTorch, while measuring; by default as many as now.
        store: where layers that were measured before are looked up, and new ones kept: a `Store`, a path, by
            default the user's own; False keeps nothing.
        keeps_nan: False lets PyTorch's pre-packed convolutions clamp as they write, as ``torch.compile``
            does when it freezes a model: faster, but ReLU then turns what is not a number into 0.
        weights: of a SPEC, a state dict, as `archcost.load` takes it.
        progress: draw a progress bar on stderr; by default on a terminal.

    Raises:
        InputError: an argument makes no sense, or the inputs do not fit the model.
        ModelError: the model is in training mode, compiled, scripted, exported or on `meta`, or cannot be
            traced.
        RewriteError: it cannot be copied.
        SpecError: no path has that name, or the SPEC names nothing.
    """
    notes: list[str] = []
    if isinstance(model, str):
        loaded = load(model, weights=os.fspath(weights) if weights is not None else None)
        if inputs is None and input_size is None and loaded.input_size is not None:
            input_size = loaded.input_size
            notes.append(loaded.assumed)
        name, model = loaded.spec, cast(Model, loaded.model)
    elif weights is not None:
        raise SpecError("weights goes with a SPEC; load the state dict of a module before you accelerate it")
    else:
        name = type(model).__name__
    _check(model, tolerance, seconds)
    with settings(threads=threads), opened(store) as kept_in:
        now = torch.get_num_threads()
        trace = traced(model, inputs, input_size=input_size, progress=progress)
        notes += trace.notes
        if inputs is None:
            args, kwargs = like_traced(trace)
            inputs = kwargs or args
        notes += _too_exact(inputs, tolerance)
        deadline = Deadline(seconds)
        work = model if inplace else copied(model)
        with state_kept(work), _long_lived():
            layers, kept, programs = layers_of(work, inputs, trace, fold)
            asked = Asked(name, inputs, tolerance, paths, now, kept_in, keeps_nan, fold)
            if layers:
                acceleration = _accelerated(work, asked, trace, layers, programs, kept, deadline, progress)
            else:
                reason = "no convolution in it can be replaced" if kept else "it has no convolution"
                acceleration = unchanged(asked, kept, reason)
    notes += acceleration.notes
    work.acceleration = replace(acceleration, notes=tuple(notes))  # type: ignore[assignment]
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


def _too_exact(inputs: Any, tolerance: float) -> Iterator[str]:
    """A tolerance for float32 is finer than half precision can be, whatever the path."""
    for dtype in {one.dtype for one in tensors_in(inputs) if one.is_floating_point()}:
        eps = torch.finfo(dtype).eps
        if tolerance < eps:
            kind = str(dtype).removeprefix("torch.")
            yield (
                f"the tolerance of {tolerance:.0e} is finer than {kind} is, which rounds by {eps:.0e}: paths "
                f"as exact as PyTorch's own are refused; tolerance={4 * eps:.0e} lets them in"
            )


def _check(model: Any, tolerance: Any, seconds: Any) -> None:
    check_model(model, InputError, "accelerate: ")
    for what, value in (("tolerance", tolerance), ("seconds", seconds)):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise InputError(f"accelerate: {what} must be a number above 0; got {value!r}")
    if as_written(model) is not model:
        raise ModelError(
            "accelerate: the model is compiled: accelerate model._orig_mod, and compile what comes of it"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "accelerate: the model is a ScriptModule, whose parts cannot be replaced: accelerate the model "
            "before torch.jit does"
        )
    if "eval" in vars(model):  # which refuses, as that of torch.export does
        raise ModelError(
            "accelerate: the model comes from torch.export, and its convolutions are no modules that could "
            "be replaced: accelerate the model, and export what comes of it"
        )
    check_values(model, "accelerate")
    if model.training:
        raise ModelError(
            "accelerate: the model is in training mode, and paths are for inference: call model.eval() first "
            "(it can be trained afterwards)"
        )
