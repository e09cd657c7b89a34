"""The paths that a first look left, timed where they are to work: inside the model's own forward passes.

A layer by itself finds its weights in other caches than in the model, which changes which path is fastest.
"""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import torch

from archcost.accelerating.assembling import Stage, convolution_in, new_modules
from archcost.accelerating.choosing import Choice, Network
from archcost.accelerating.contest import Took, Way, near
from archcost.accelerating.layers import Layer, Task
from archcost.accelerating.layouts import CHANNELS_LAST, NCHW
from archcost.latency.timing.clock import interquartile
from archcost.latency.timing.deadline import Deadline, now
from archcost.latency.timing.stopwatch import CpuStopwatch, Stopwatch, WallStopwatch
from archcost.surgery.outputs import fresh

__all__ = ["rehearsed"]

_MOST_ROUNDS = 12
_CONTENDERS, _LEAST_CONTENDERS = 4, 2
# Passes of a cast in each of its turns; the first one warms the caches and is not counted.
_PASSES = 3
_TOLERANCE = 0.1

Looks = Mapping[Task, Mapping[Way, Took]]


def rehearsed(
    stage: Stage,
    network: Network,
    looks: Looks,
    inputs: Any,
    deadline: Deadline,
    whole: float,
    threads: int,
    keeps_nan: bool,
) -> dict[Task, dict[Way, Took]]:
    """By task, new times of the paths near the fastest, as far as the deadline allows.

    ``whole`` is about how long a pass takes, in seconds. There are as many contenders as there is time for.
    """
    casts: dict[str, int] = {}
    parts: dict[str, dict[str, Way]] = {}
    turns = deadline.left / (2 * _PASSES * max(whole, 1e-9))
    most = min(_CONTENDERS, max(_LEAST_CONTENDERS, int(turns)))
    for label in (CHANNELS_LAST, NCHW):
        contenders = {layer.name: near(looks.get(layer.task, {}), most)[label] for layer in network.layers}
        for turn in range(max(map(len, contenders.values()), default=0)):
            name = f"{label} {turn}"
            parts[name] = {
                one: (paths[turn % len(paths)], label) for one, paths in contenders.items() if paths
            }
            casts[name] = label
            stage.add(name, _cast(stage, network, parts[name], keeps_nan))
    samples: dict[tuple[Task, Way], list[float]] = defaultdict(list)
    shuffle, names = random.Random(0).shuffle, list(casts)
    costs = dict.fromkeys(casts, _PASSES * whole)
    with torch.inference_mode():
        for _ in range(_MOST_ROUNDS):
            shuffle(names)
            for name in list(names):
                if not deadline.allows(costs[name]):
                    continue
                start = now()
                try:
                    found = _passes(stage, name, network, inputs, threads)
                    costs[name] = now() - start
                except RuntimeError:  # the model's code cannot do with this layout
                    names.remove(name)
                    continue
                for layer, seconds in found:
                    if layer.name in parts[name]:
                        samples[layer.task, parts[name][layer.name]].append(seconds)
    stage.drop(casts)
    times: dict[Task, dict[Way, Took]] = defaultdict(dict)
    for (task, way), seconds_ in samples.items():
        times[task][way] = Took(median(seconds_), interquartile(seconds_), len(seconds_))
    return times


def _cast(stage: Stage, network: Network, ways: Mapping[str, Way], keeps_nan: bool) -> dict[str, Any]:
    """Every layer by its path of this cast, also where that is PyTorch's own."""
    layers = [layer for layer in network.layers if layer.name in ways]
    chosen = {}
    for layer in layers:
        path, label = ways[layer.name]
        source, target = (network.regions[storage] for storage in layer.ends[0])
        reads, writes = (network.pinned.get(region, label) for region in (source, target))
        chosen[layer.name] = Choice(path, reads, writes, 0.0)
    return dict(new_modules(stage.model, layers, chosen, keeps_nan, all_of_them=True))


def _passes(
    stage: Stage, name: str, network: Network, inputs: Any, threads: int
) -> Iterator[tuple[Layer, float]]:
    """What each layer took in a few passes; what was interrupted is left out."""
    model, watch = stage.show(name), CpuStopwatch() if threads == 1 else WallStopwatch()
    found: list[tuple[Layer, float]] = []
    with contextlib.ExitStack() as stack:
        readings = _watched(stage, name, network, watch, stack)
        for number in range(_PASSES):
            args, kwargs = fresh(inputs)
            readings.clear()
            model(*args, **kwargs)
            if number:
                for layer, before, after in _pairs(readings):
                    lap = watch.laps([before, after], _TOLERANCE)[0]
                    if not lap.interrupted:
                        found.append((layer, lap.seconds))
    return iter(found)


def _watched(
    stage: Stage, name: str, network: Network, watch: Stopwatch, stack: contextlib.ExitStack
) -> list[tuple[Layer, Any]]:
    """Hooks on the layers of a cast while the stack is open: two readings for each call."""
    readings: list[tuple[Layer, Any]] = []
    modules, read = stage.modules(name), watch.read
    for layer in network.layers:
        module = convolution_in(modules, layer)
        if module is None:
            continue

        def note(*_: Any, layer: Layer = layer) -> None:
            readings.append((layer, read()))

        stack.callback(module.register_forward_pre_hook(note).remove)
        stack.callback(module.register_forward_hook(note, prepend=True).remove)
    return readings


def _pairs(readings: list[tuple[Layer, Any]]) -> Iterator[tuple[Layer, Any, Any]]:
    for (layer, before), (_, after) in zip(readings[::2], readings[1::2], strict=True):
        yield layer, before, after
