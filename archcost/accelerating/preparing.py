"""What is measured before anything is chosen: the layers on their paths, and what a new layout costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import nn

from archcost.accelerating.assembling import Stage
from archcost.accelerating.choosing import Network
from archcost.accelerating.contest import (
    Compare,
    Took,
    Way,
    candidates,
    first_look,
    images_for,
    keep,
    rough_seconds,
    stored,
    ways_of,
)
from archcost.accelerating.layers import Layer, Task
from archcost.accelerating.layouts import pinned_by_ends, pinned_by_views, regions
from archcost.accelerating.pooling import pools_of
from archcost.accelerating.program import Step
from archcost.accelerating.rehearsal import rehearsed
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import compare_calls
from archcost.latency.timing.deadline import Deadline, now
from archcost.surgery.outputs import fresh
from archcost.trace.graph import Trace

__all__ = ["Asked", "measured", "network_of"]


@dataclass(frozen=True)
class Asked:
    """What the user asked for."""

    name: str
    inputs: Any
    tolerance: float
    paths: list[str] | None
    threads: int
    store: Store | None
    keeps_nan: bool
    fold: bool
    compare: Compare = compare_calls


def measured(
    stage: Stage, network: Network, asked: Asked, deadline: Deadline, step: Callable[..., None]
) -> dict[str, dict[Way, Took]]:
    """Each distinct convolution once, the longest first; those that time does not reach are left out.

    A first look at every path by itself; then those that are near the fastest inside the model.
    """
    first: dict[Task, Layer] = {}
    for layer in network.layers:
        first.setdefault(layer.task, layer)
    rough = {task: 0.0 if deadline.passed else rough_seconds(layer) for task, layer in first.items()}
    known: dict[Task, dict[Way, Took]] = {}
    looks: dict[Task, dict[Way, Took]] = {}
    for task in sorted(first, key=lambda one: -rough[one]):
        paths, _ = candidates(task, asked.paths)
        if asked.store is not None:
            ways = ways_of(first[task], paths)
            known[task] = stored(task, ways, asked.threads, asked.keeps_nan, asked.store)
        if not known.get(task) and not deadline.passed:
            looks[task] = first_look(
                first[task],
                paths,
                rough[task],
                deadline,
                threads=asked.threads,
                keeps_nan=asked.keeps_nan,
                compare=asked.compare,
            )
        step()
    if looks:
        whole = sum(rough[layer.task] for layer in network.layers)
        now = rehearsed(stage, network, looks, asked.inputs, deadline, whole, asked.threads, asked.keeps_nan)
        for task, found in looks.items():
            if now.get(task):
                # One kind of time for all: what was too slow in the first look is as much too slow here.
                scale = _scale(found, now[task])
                slower = {way: replace(took, seconds=took.seconds * scale) for way, took in found.items()}
                looks[task] = {**slower, **now[task]}
            # What some images say of a batch was not measured.
            whole_batch = images_for(first[task], rough[task]) == len(first[task].x)
            if asked.store is not None and whole_batch:
                keep(task, looks[task], asked.threads, asked.keeps_nan, asked.store)
    times = {**known, **looks}
    return {layer.name: times.get(layer.task, {}) for layer in network.layers}


def _scale(looks: Mapping[Way, Took], now: Mapping[Way, Took]) -> float:
    """How much longer than by themselves the same paths take inside the model: the median."""
    return median(took.seconds / looks[way].seconds for way, took in now.items() if looks[way].seconds)


def network_of(
    model: nn.Module,
    asked: Asked,
    trace: Trace,
    layers: list[Layer],
    programs: Mapping[str, tuple[Step, ...]],
) -> Network:
    """How the layers hang together, with what the model's real inputs and outputs look like."""
    args, kwargs = fresh(asked.inputs)
    start = now()
    with torch.no_grad():
        outputs = model(*args, **kwargs)
    seconds = now() - start
    found = regions(trace)
    pinned = {
        **pinned_by_ends(trace, found, fresh(asked.inputs), outputs),
        **pinned_by_views(trace, found),
    }
    speeds = _conversion(layers), _passing(layers)
    return Network(tuple(layers), found, pinned, *speeds, programs, pools_of(model, trace), seconds)


def _conversion(layers: list[Layer]) -> float:
    """Bytes a second of a change of layout, on the input of middle size."""
    images = sorted((layer.x for layer in layers if layer.x.dim() in (4, 5)), key=torch.numel)
    if not images:
        return 1e10
    x = images[len(images) // 2].contiguous()
    layout: Any = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return _speed(x, lambda: x.contiguous(memory_format=layout))


def _passing(layers: list[Layer]) -> float:
    """Bytes a second of an addition in place, likewise."""
    inputs = sorted((layer.x for layer in layers), key=torch.numel)
    x = inputs[len(inputs) // 2].clone()
    other = torch.zeros_like(x)
    return _speed(x, lambda: x.add_(other))


def _speed(x: torch.Tensor, work: Callable[[], Any]) -> float:
    """Bytes a second, where the tensor is read and written once."""
    taken = []
    for _ in range(5):
        start = now()
        work()
        taken.append(now() - start)
    return 2 * x.numel() * x.element_size() / max(sorted(taken)[2], 1e-7)
