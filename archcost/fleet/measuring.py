"""The measurement of one task, in the process that was forked for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from statistics import median, quantiles
from typing import Any, Literal

# Imported before the fork, so that no task waits for it; nothing is computed before the fork, because threads
# of PyTorch would be lost in it.
import torch
import torchvision

import archcost.paths.accuracy
import archcost.paths.eligibility
import archcost.paths.likely  # noqa: F401
from archcost.fleet.tasks import Layer, Model, Probe, Product, Step, Task, from_record
from archcost.latency.candidates import TimingOptions
from archcost.latency.convolutions import ConvTask, ConvTensors
from archcost.latency.paths import time_paths
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.timing.clock import Timing, compare_calls
from archcost.latency.timing.deadline import Deadline, now
from archcost.latency.timing.engine import clock_for, once
from archcost.latency.timing.settings import settings
from archcost.latency.timing.thresholds import GAP_NS, TOLERANCE
from archcost.paths.registry import available

__all__ = ["measured"]

available()
assert torchvision
_SIDE = 384
_FEWEST_RUNS, _MOST_RUNS = 7, 40
_LONGER = (1, 8, 64)
"""Times the seconds given: a large layer, or a busy machine, takes what it takes for the fewest samples."""


def measured(record: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Measure a task.

    Args:
        record: what `archcost.fleet.tasks.Task.record` gave.
        seconds: the wall time that measuring may take; what is prepared comes on top.

    Returns:
        Plain values: ``times`` of a layer's paths, ``product``, or ``model`` for a whole model; and
        ``reference_s``, the time of a matrix product before and after, whichever is longer.
    """
    task = from_record(record)
    threads = getattr(task, "threads", 1)
    with settings(threads=threads), torch.inference_mode():
        before = _reference()
        found = _MEASURES[type(task)](task, seconds)
        return {**found, "reference_s": max(before, _reference())}


def _reference() -> float:
    """CPU seconds of a product of square matrices: the fastest of several."""
    a = torch.ones(_SIDE, _SIDE)
    timing = compare_calls({"product": lambda: a @ a}, rounds=5, warmup=2)["product"]
    return min(timing.cpu_seconds)


def _layer(task: Task, seconds: float) -> dict[str, Any]:
    """The times of a layer on its paths, with random weights of its own size."""
    assert isinstance(task, Layer)
    spec, dtype = task.spec, getattr(torch, task.dtype)
    random = torch.Generator().manual_seed(0)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    inputs, outputs = spec.in_channels, spec.out_channels // spec.groups
    if not spec.transposed:
        inputs, outputs = spec.out_channels, spec.in_channels // spec.groups
    tensors = ConvTensors(
        values(spec.batch, spec.in_channels, *spec.input_size),
        values(inputs, outputs, *spec.kernel_size),
        values(spec.out_channels) if spec.bias else None,
    )
    seen: dict[str, Timing] = {}

    def compare(calls: Mapping[str, Callable[[], object]], **how: Any) -> dict[str, Timing]:
        found = compare_calls(calls, **how)
        seen.update(found)
        return found

    options = TimingOptions(task.threads, None if task.paths == "likely" else task.paths, compare=compare)
    conv = ConvTask(spec, task.dtype)
    for longer in _LONGER:
        found = next(iter(time_paths({conv: tensors}, options, Deadline(longer * seconds))), None)
        if found is not None:
            break
    if found is None:
        raise RuntimeError("PyTorch's own path was not timed in the seconds given")
    clock = clock_for(task.threads)
    times = []
    for one in found.measurements:
        timing = seen.get(f"{one.key.path} {one.key.layout}")
        same = timing is not None and timing.kept == one.samples
        times.append({**one.record(), **_quartiles(_samples(timing, clock) if timing and same else ())})
    return {"times": times, "refused": dict(found.refused)}


def _samples(timing: Timing, clock: Literal["cpu", "wall"]) -> Sequence[float]:
    return timing.cpu_seconds if clock == "cpu" else timing.wall_seconds


def _quartiles(seconds: Sequence[float]) -> dict[str, float | None]:
    if len(seconds) < 2:
        return {"q1_s": None, "q3_s": None}
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    return {"q1_s": low, "q3_s": high}


def _model(task: Task, seconds: float) -> dict[str, Any]:
    """The time of a whole model's forward pass, with random weights and inputs."""
    assert isinstance(task, Model)
    from archcost.models.specs import load
    from archcost.trace.call import Call, like_traced
    from archcost.trace.hints import traced

    loaded = load(task.model)
    size = loaded.input_size
    if isinstance(size, tuple):
        call = Call.of(torch.rand(task.batch, *size[1:]))
    else:
        call = like_traced(traced(loaded.model, input_size=size, progress=False))
        first = call.tensors[0].shape[0]

        def change(one: torch.Tensor) -> torch.Tensor:
            same = one.dim() and one.shape[0] == first
            return one.new_ones((task.batch, *one.shape[1:])) if same else one

        call = call.mapped(change)
    model: Any = loaded.model
    if task.how == "program":
        from archcost.engine.accelerate import accelerate

        # Not by earlier runs' times: the same task is the same work. By its SPEC, so that random weights do.
        for longer in _LONGER:
            model = accelerate(task.model, call, seconds=longer * seconds, store=False, progress=False)
            if model.acceleration.accelerated_ms is not None:
                break
        else:
            raise RuntimeError(model.acceleration.reason)
    return {"model": _timed(lambda: model(*call.args, **call.kwargs), task.threads, seconds)}


def _product(task: Task, seconds: float) -> dict[str, Any]:
    """The time of a product of matrices: of one pair as a linear layer, whose weight lies transposed."""
    assert isinstance(task, Product)
    *pairs, rows, inner, columns = task.sizes
    random = torch.Generator().manual_seed(0)
    left = torch.randn(*pairs, rows, inner, generator=random)
    right = torch.randn(*pairs, columns, inner, generator=random).transpose(-1, -2)
    if pairs:
        right = right.contiguous()
        return {"product": _timed(lambda: torch.bmm(left, right), task.threads, seconds)}
    bias = torch.randn(columns, generator=random)
    return {"product": _timed(lambda: torch.addmm(bias, left, right), task.threads, seconds)}


def _timed(call: Callable[[], object], threads: int, seconds: float) -> dict[str, Any]:
    """Median, quartiles and number of samples of a call."""
    clock = clock_for(threads)
    call()
    # A model that takes long is given the time that its fewest samples take.
    longest = 4 * seconds + 30 + 8 * once(call, threads)
    timing = compare_calls(
        {"it": call},
        cpu_clock="thread" if clock == "cpu" else "process",
        rounds=25,
        seconds=seconds,
        deadline=Deadline(longest),
        warmup=0,
    )["it"]
    took = timing.by(clock)
    whole = {"median_s": took.median_s, "samples": took.samples, "dropped": took.dropped, "clock": clock}
    return {**whole, "disturbed": took.disturbed, **_quartiles(_samples(timing, clock))}


def _step(task: Task, seconds: float) -> dict[str, Any]:
    """The time of a layer as the engine runs it, by its fastest variant. Kernels take wall time."""
    assert isinstance(task, Step)
    from archcost.engine.choosing import runs_of, seconds_of, variants
    from archcost.engine.on_paper import node_of

    node, until = node_of(task.layer), now() + seconds
    ways, least = dict(variants(node) or [("direct", (node,))]), dict[str, float]()
    for name in reversed(ways):
        least[name] = seconds_of(node, ways[name], min(least.values(), default=inf))
    best = min(least, key=lambda name: least[name])
    runs, kept, every = runs_of(node, ways[best]), list[float](), list[float]()
    next(runs)
    while len(kept) < _MOST_RUNS and (len(every) < _FEWEST_RUNS or now() < until):
        wall, cpu = time.perf_counter(), time.thread_time()
        every.append(next(runs))
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        # Another program ran meanwhile; with several threads one cannot tell.
        if task.threads > 1 or wall - cpu <= TOLERANCE * cpu + 1e-9 * GAP_NS:
            kept.append(every[-1])
    disturbed = len(kept) < _FEWEST_RUNS
    taken = every if disturbed else kept
    step = {"median_s": median(taken), "samples": len(taken), "dropped": len(every) - len(taken)}
    return {"step": {**step, "clock": "wall", "disturbed": disturbed, **_quartiles(taken)}, "variant": best}


def _probe(task: Task, seconds: float) -> dict[str, Any]:
    return {}


_MEASURES: dict[type[Task], Callable[[Task, float], dict[str, Any]]] = {
    Layer: _layer, Product: _product, Step: _step, Model: _model, Probe: _probe
}  # fmt: skip
fingerprint()
