"""A first look at every way to execute a convolution on this machine, interleaved in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

import torch

from archcost.accelerating.layers import Layer, Task
from archcost.accelerating.layouts import CHANNELS_LAST, NCHW, memory_format
from archcost.errors import ArchcostError
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.measurement import Measurement
from archcost.latency.store.measurement import OldKey as Key
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import Timing, compare_calls
from archcost.latency.timing.deadline import Deadline, now
from archcost.nn.runners import Runner, runner_for
from archcost.paths.likely import likely
from archcost.paths.path import ExecutionPath
from archcost.paths.registry import available, get

__all__ = ["Took", "Way", "candidates", "first_look", "images_for", "keep", "near", "rough_seconds", "stored"]

# A candidate this much slower than the fastest in a first look is not timed further.
HOPELESS = 1.5
_LOOKS = 3
# What takes so many times as long as the fastest in its very first call is not called again.
_FAR = 8.0
# A first look takes as many images of a batch as PyTorch convolves in this time.
_LOOK_S = 0.05
_LAYOUTS = {NCHW: "contiguous", CHANNELS_LAST: "channels_last"}
# What lies between two calls of a layer in a model pushes its weights out of the nearer caches.
_PUSHED_BYTES = 1 << 23
_OWN = ("native", "native-channels-last", "native-prepacked")

Compare = Callable[..., dict[str, Timing]]
Way = tuple[str, int]
"""The name of a path, and the layout of its input and output."""


@dataclass(frozen=True)
class Took:
    """What one candidate took, in seconds."""

    seconds: float
    spread: float
    samples: int
    dropped: int = 0

    @property
    def noise(self) -> float:
        """How far the median may be off: twice its standard error, from the interquartile range."""
        return 2 * 0.93 * self.spread / sqrt(self.samples) if self.spread == self.spread else inf


def candidates(task: Task, paths: Iterable[str] | None = None) -> tuple[list[ExecutionPath], dict[str, str]]:
    """PyTorch's own ways and the paths that paper gives a chance, with the reason against each of the others;
    or those of these names."""
    named = available() if paths is None else ("native", *paths)
    ways = [get(name) for name in dict.fromkeys(named)]
    ways = [path for path in ways if path.supports(task.spec, task.dtype) is None]
    if paths is not None:
        return ways, {}
    kept, refused = likely(task.spec, ways, task.dtype)
    return [path for path in kept if path.name in _OWN or not _is_own(path, task)], refused


def _is_own(path: ExecutionPath, task: Task) -> bool:
    return path.implementation(task.spec, task.dtype) == "PyTorch"


def first_look(
    layer: Layer,
    paths: list[ExecutionPath],
    rough: float,
    deadline: Deadline,
    *,
    threads: int,
    keeps_nan: bool,
    compare: Compare = compare_calls,
) -> dict[Way, Took]:
    """Every path in both layouts on a layer's own weights and input, interleaved, a few times each, as far as
    the deadline allows.

    Of a large batch some images stand for all: ``rough`` is about how long PyTorch takes for it, in seconds.
    """
    ways = ways_of(layer, paths)
    batch, images = len(layer.x), images_for(layer, rough)
    calls, prepare, far = _calls(layer, layer.x[:images], ways, keeps_nan, deadline)
    if not calls:
        return {}
    clock: Any = "thread" if threads == 1 else "process"
    with torch.inference_mode():
        timings = compare(calls, rounds=_LOOKS, warmup=0, prepare=prepare, cpu_clock=clock, deadline=deadline)
    found = {way: _of(timings[_called(way)], threads) for way in ways if _called(way) in timings} | far
    share = batch / images
    return {
        way: replace(took, seconds=took.seconds * share, spread=took.spread * share)
        for way, took in found.items()
    }


def images_for(layer: Layer, rough: float) -> int:
    """How many of its batch a first look takes; what is said of the others is no measurement."""
    batch = len(layer.x)
    return min(batch, max(1, int(batch * _LOOK_S / max(rough, 1e-9))))


def near(found: Mapping[Way, Took], most: int) -> dict[int, list[str]]:
    """By layout, the paths that a first look leaves a chance, the fastest first, so many at most."""
    kept: dict[int, list[str]] = {}
    for label in (NCHW, CHANNELS_LAST):
        here = sorted((took.seconds, path) for (path, at), took in found.items() if at == label)
        kept[label] = [path for seconds, path in here[:most] if seconds <= HOPELESS * here[0][0]]
    return kept


def stored(task: Task, ways: Iterable[Way], threads: int, keeps_nan: bool, store: Store) -> dict[Way, Took]:
    """What the store has of them: all, or nothing."""
    ways = list(ways)
    found = {way: store.get(_key(task, way, threads, keeps_nan)) for way in ways}
    return (
        {way: _from_store(one) for way, one in found.items() if one is not None}
        if all(found.values())
        else {}
    )


def keep(task: Task, found: Mapping[Way, Took], threads: int, keeps_nan: bool, store: Store) -> None:
    """Put them into the store."""
    device = fingerprint()
    store.put_many(
        Measurement(
            key=_key(task, way, threads, keeps_nan),
            device=str(device),
            median_s=took.seconds,
            spread_s=took.spread if took.spread == took.spread and took.spread < inf else None,
            samples=took.samples,
            dropped=took.dropped,
            clock="cpu" if threads == 1 else "wall",
            torch=device.torch,
        )
        for way, took in found.items()
    )


def rough_seconds(layer: Layer) -> float:
    """About how long PyTorch takes, to share out the time by."""
    module = get("native")
    with torch.inference_mode():
        prepared = module.prepare(layer.weight, layer.bias, layer.spec)
        module.run(layer.x, prepared)
        start = now()
        module.run(layer.x, prepared)
        return now() - start


def ways_of(layer: Layer, paths: list[ExecutionPath]) -> list[Way]:
    labels = (NCHW, CHANNELS_LAST) if layer.x.dim() in (4, 5) else (NCHW,)
    return [(path.name, label) for path in paths for label in labels]


def _called(way: Way) -> str:
    return f"{way[0]} {_LAYOUTS[way[1]]}"


def _calls(
    layer: Layer, images: torch.Tensor, ways: list[Way], keeps_nan: bool, deadline: Deadline
) -> tuple[dict[str, Callable[..., Any]], dict[str, Callable[[], Any]], dict[Way, Took]]:
    """Each way as a function, and what makes its input: freshly written, as the layer before leaves it. And
    what is far behind in its very first call, which is all that is known of it."""
    calls: dict[str, Callable[..., Any]] = {}
    prepare: dict[str, Callable[[], Any]] = {}
    ready: dict[str, Any] = {}
    pushing = torch.zeros(_PUSHED_BYTES // 4)
    inputs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    far: dict[Way, Took] = {}
    fastest = inf
    for name, label in ways:
        path, layout = get(name), memory_format(label, layer.x.dim() - 2)
        if deadline.passed:
            break
        if label not in inputs:
            source = images.contiguous(memory_format=layout)
            inputs[label] = (source, source.clone(memory_format=torch.preserve_format))
        source, x = inputs[label]
        try:
            with torch.no_grad():
                if name not in ready:  # the output has the layout of the input
                    ready[name] = path.prepare(
                        layer.weight, layer.bias, layer.spec, layer.epilogue(None, keeps_nan)
                    )
                run = runner_for(path, x, ready[name], layer.task.clamp)
                start = now()
                run(x, None)
                took = now() - start
        except (ArchcostError, RuntimeError, MemoryError):
            continue  # PyTorch's own may fail where they said they would not
        fastest = min(fastest, took)
        if took > max(_LOOK_S, _FAR * fastest) and name != "native":
            far[name, label] = Took(took, inf, 1)
            continue

        def fresh(x: torch.Tensor = x, source: torch.Tensor = source) -> torch.Tensor:
            pushing.sum()
            return x.copy_(source)

        def call(given: torch.Tensor, run: Runner = run) -> Any:
            return run(given, None)

        calls[_called((name, label))] = call
        prepare[_called((name, label))] = fresh
    return calls, prepare, far


def _seconds(timing: Timing, threads: int) -> float:
    return timing.median if threads == 1 else timing.wall_median


def _of(timing: Timing, threads: int) -> Took:
    from archcost.latency.timing.clock import interquartile

    spread = timing.spread if threads == 1 else interquartile(timing.wall_seconds)
    return Took(_seconds(timing, threads), spread, timing.kept, timing.dropped)


def _from_store(one: Measurement) -> Took:
    return Took(one.median_s, inf if one.spread_s is None else one.spread_s, one.samples, one.dropped)


def _key(task: Task, way: Way, threads: int, keeps_nan: bool) -> Key:
    """Its own kind of measurement: with the input fresh and the weights pushed out, and with the clamp."""
    clamped = "" if task.clamp is None else f", clamped to {task.clamp[0]:g}..{task.clamp[1]:g}"
    loose = "" if keeps_nan or task.clamp is None else " (no NaN)"
    return Key(
        fingerprint=fingerprint().hash,
        spec=task.spec,
        dtype=str(task.dtype).removeprefix("torch."),
        path=f"{way[0]}, in a model{clamped}{loose}",
        layout=_LAYOUTS[way[1]],
        threads=threads,
    )
