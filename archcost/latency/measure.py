"""measure: how long a model's convolutions take on this machine, in context and on every path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from archcost.analysis.analysis import Analysis, analyze
from archcost.errors import InputError, SpecError
from archcost.latency.measured import Measured, MeasuringInterrupted
from archcost.latency.timing.deadline import Deadline, now

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.latency.convolutions import ConvCall, ConvTask
    from archcost.latency.paths import PathTimes
    from archcost.latency.prediction.predictor import Prediction
    from archcost.latency.prediction.roofline import Roofline
    from archcost.latency.requests import Requests
    from archcost.latency.store.store import Store
    from archcost.latency.timing.parts import InContext
    from archcost.trace.call import Call
    from archcost.trace.inputs import Inputs, InputSize

__all__ = ["Measured", "MeasuringInterrupted", "measure"]

# The share of the seconds for the model in context, and most seconds; a larger share for its fewest passes.
_IN_CONTEXT, _MOST_IN_CONTEXT = 0.25, 20.0
_FEWEST_IN_CONTEXT = 0.5
# The share for whole passes by the wall clock, from which percentiles are told.
_REQUESTS, _MOST_REQUESTS = 0.15, 20.0
# Shares kept for the roofline and for predicting what was not reached, each with its most seconds.
_ROOFLINE, _MOST_ROOFLINE = 0.15, 2.0
_PREDICTIONS, _MOST_PREDICTIONS = 0.1, 10.0

Paths = Sequence[str] | Literal["all"] | None


def measure(
    model: nn.Module | str | Analysis,
    inputs: Inputs = None,
    *,
    paths: Paths = None,
    threads: int | None = None,
    batch: int | None = None,
    seconds: float = 60.0,
    tolerance: float = 1e-4,
    store: Store | str | os.PathLike[str] | Literal[False] | None = None,
    again: bool = False,
    in_context: bool = True,
    cold: bool = False,
    progress: bool | None = None,
    input_size: InputSize | None = None,
) -> Measured:
    """How long each convolution takes on this machine: as the model runs it, and alone on every path.

    Two kinds of time, never mixed. *In context*: the clock is read at the hooks of real forward passes, and
    the parts add up to the whole. *Paths*: every distinct convolution on every path that is exact enough
    with its own weights, in both layouts, in turns in one run. The model comes back untouched.

    Args:
        model: a module, a SPEC, or the Analysis of one.
        inputs: as in `archcost.analyze`; for an Analysis, by default random ones like its own.
        paths: names of paths; ``"all"``: every path that can execute the layer, however slow; by default
            those of PyTorch and those that compiled kernels run.
        threads: threads of PyTorch; by default as many as it has now.
        batch: number of images; the inputs are repeated or cut along their first axis.
        seconds: the wall time that measuring may take; the trace and two passes of the model come on top.
            Convolutions that it does not reach are not measured, and the notes say so.
        tolerance: the largest max |y - exact| / max |exact| of a path, on the layer's own weights and input.
        store: where measurements are kept and looked up: a `Store`, a path, by default the user's own;
            False keeps nothing.
        again: measure anew also what the store has.
        in_context: time the model itself as well.
        cold: each call of a path gets an input from beyond the caches.
        progress: draw a progress bar on stderr; by default on a terminal.
        input_size: the shape of the input, batch included, where ``inputs`` are not given.

    Returns:
        The times by layer and by path, to be printed, saved or read as attributes.

    Raises:
        MeasuringInterrupted: Ctrl-C; a KeyboardInterrupt with the `Measured` so far as ``found``.
        InputError: an argument makes no sense, or the inputs do not fit.
        ModelError: the model fails, is compiled, or is gone.
        SpecError: no such path, or the SPEC names nothing.
    """
    _check(seconds, tolerance, batch, paths)
    analysis, source, call = _prepared(model, inputs, batch, input_size, progress)
    from archcost.latency.convolutions import convolutions_of
    from archcost.latency.store.store import opened
    from archcost.paths.registry import available

    calls = convolutions_of(analysis.trace)
    available()  # loading the paths takes seconds, which are not part of measuring
    run = _Measuring(analysis, source, call, calls, seconds, tolerance, cold)
    with ExitStack() as stack:
        from archcost.latency.timing.settings import settings

        kept = stack.enter_context(opened(store))
        stack.enter_context(settings(threads=threads))
        try:
            run.measure(paths, kept, again, in_context, progress)
        except KeyboardInterrupt:
            raise MeasuringInterrupted(run.found(interrupted=True)) from None
        return run.found()


@dataclass
class _Measuring:
    """A run of `measure`, and its measurements so far."""

    analysis: Analysis
    model: nn.Module
    call: Call
    calls: tuple[ConvCall, ...]
    seconds: float
    tolerance: float
    cold: bool
    context: InContext | None = None
    roofline: Roofline | None = None
    requests: Requests | None = None
    times: list[PathTimes] = field(default_factory=list)
    predictions: dict[ConvTask, Prediction] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start, self.deadline = now(), Deadline(self.seconds)

    def measure(
        self, paths: Paths, store: Store | None, again: bool, in_context: bool, show: bool | None
    ) -> None:
        import torch

        from archcost.latency.convolutions import samples_of
        from archcost.latency.paths import TimingOptions, time_paths
        from archcost.latency.prediction.roofline import measure_roofline
        from archcost.latency.timing.context import time_in_context
        from archcost.latency.timing.deadline import TooLittleTime
        from archcost.latency.unreached import predict_unreached
        from archcost.progress import Progress

        tasks = list(dict.fromkeys(call.task for call in self.calls if call.task is not None))
        threads = torch.get_num_threads()
        with Progress(len(tasks) + in_context, f"{self.analysis.name} in context", show) as bar:
            if in_context:
                most = min(_IN_CONTEXT * self.seconds, _MOST_IN_CONTEXT)
                latest = self.deadline.within(_FEWEST_IN_CONTEXT * self.seconds)
                try:
                    self.context = time_in_context(self.model, self.call, seconds=most, deadline=latest)
                except TooLittleTime as error:
                    self.notes.append(f"the model was not timed in context: {error}; give more seconds")
                else:
                    self._time_requests()
                bar.step(label="convolutions on every path")
            if _device_of(self.model) != "cpu":
                self.notes.append(
                    f"paths are timed on the CPU only: the model is on {_device_of(self.model)}"
                )
                return
            samples = samples_of(self.model, self.call, tasks)
            if len(samples) < len(tasks):
                missing = len(tasks) - len(samples)
                self.notes.append(f"{missing} convolutions of the analysis did not run in a real pass")
            options = TimingOptions(threads, paths, self.tolerance, store, again, self.cold)
            roofline = min(_ROOFLINE * self.seconds, _MOST_ROOFLINE)
            predictions = min(_PREDICTIONS * self.seconds, _MOST_PREDICTIONS)
            for times in time_paths(samples, options, self.deadline.before(roofline + predictions)):
                self.times.append(times)
                bar.step()
            dtypes = {task.dtype for task in samples}
            if len(dtypes) == 1:
                try:
                    line = measure_roofline(
                        store,
                        threads=threads,
                        dtype=dtypes.pop(),
                        seconds=roofline,
                        deadline=self.deadline.before(predictions),
                        again=again,
                    )
                    # Cold inputs come from memory, whatever would hold them.
                    self.roofline = replace(line, caches=()) if self.cold else line
                except TooLittleTime as error:
                    self.notes.append(f"no roofline of this machine: {error}; give more seconds")
            elif dtypes:
                named = " and ".join(sorted(map(str, dtypes)))
                self.notes.append(f"no roofline: convolutions of several dtypes, {named}")
            reached = {times.task for times in self.times}
            unreached = {task: sample for task, sample in samples.items() if task not in reached}
            if unreached:
                made = [one for times in self.times for one in times.measurements]
                self.predictions = predict_unreached(unreached, options, made, self.deadline)

    def _time_requests(self) -> None:
        """Whole passes by the wall clock, at the batch and the threads of this measurement."""
        from archcost.latency.requests import time_requests

        seconds = min(_REQUESTS * self.seconds, _MOST_REQUESTS, self.deadline.left / 4)
        if self.context is not None and seconds > 0:
            self.requests = time_requests(self.model, self.call, self._batch or 1, seconds=seconds)

    @property
    def _batch(self) -> int | None:
        """The first axis of the first input."""
        from archcost.trace.graph import refs

        shapes = [ref.shape for ref in refs(self.analysis.trace.inputs)]
        return shapes[0][0] if shapes and shapes[0] else None

    def found(self, interrupted: bool = False) -> Measured:
        import torch

        from archcost.latency.store.fingerprint import fingerprint
        from archcost.paths.registry import table

        asked = {name: getattr(self, name) for name in ("calls", "tolerance", "cold", "seconds")}
        return Measured(
            name=self.analysis.name,
            type=self.analysis.total.type_name,
            input=self.analysis.input_text,
            batch=self._batch,
            convolutions=tuple(self.times),
            context=self.context,
            requests=self.requests,
            roofline=self.roofline,
            device=str(fingerprint(_device_of(self.model))),
            threads=torch.get_num_threads(),
            torch=str(torch.__version__),
            took_s=now() - self.start,
            interrupted=interrupted,
            notes=(*self.analysis.notes, *self.notes, *table.notes),
            predictions=self.predictions,
            analysis=self.analysis,
            **asked,
        )


def _prepared(
    model: nn.Module | str | Analysis,
    inputs: Inputs,
    batch: int | None,
    input_size: InputSize | None,
    progress: bool | None,
) -> tuple[Analysis, nn.Module, Call]:
    """The analysis of the call that is to be measured, the model, and the arguments of that call."""
    from archcost.trace.call import Call, like_traced

    if isinstance(model, Analysis):
        if input_size is not None:
            raise InputError("measure: an Analysis has its input size; give batch, or inputs of that size")
        analysis = model
        if inputs is not None:
            analysis = replace(analyze(model.model, inputs, progress=progress), name=model.name)
    else:
        analysis = analyze(model, inputs, input_size=input_size, progress=progress)
    source = analysis.model
    call = Call.of(inputs) if inputs is not None else like_traced(analysis.trace)
    if batch is not None:
        call = _with_batch(call, batch)
        analysis = replace(analyze(source, call, progress=progress), name=analysis.name)
    return analysis, source, call.on(_device_of(source))


def _with_batch(call: Call, batch: int) -> Call:
    """The call with every tensor as long as the first along its first axis repeated or cut to the batch."""
    import torch

    sizes = [tensor.shape[0] if tensor.dim() else 0 for tensor in call.tensors]
    if not sizes or not sizes[0]:
        raise InputError("measure: batch needs an input whose first axis is not empty; give such inputs")

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.dim() or tensor.shape[0] != sizes[0]:
            return tensor
        return tensor.detach()[torch.arange(batch, device=tensor.device) % sizes[0]]

    return call.mapped(change)


def _device_of(model: nn.Module) -> str:
    tensor = next(iter((*model.parameters(), *model.buffers())), None)
    return "cpu" if tensor is None else str(tensor.device)


def _check(seconds: float, tolerance: float, batch: int | None, paths: Paths) -> None:
    for name, value in {"seconds": seconds, "tolerance": tolerance}.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise InputError(f"measure: {name} must be a number above 0; got {value!r}")
    if batch is not None and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise InputError(f"measure: batch must be a whole number, at least 1; got {batch!r}")
    if paths is None or paths == "all":
        return
    if isinstance(paths, str) or not all(isinstance(path, str) for path in paths):
        raise SpecError(f"measure: paths is {paths!r}; give a list of names, 'all' or None")
    from archcost.paths.registry import get

    for path in paths:
        get(path)
