"""Which path and which layout each convolution gets, from what was measured: arithmetic, nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from archcost.accelerating.contest import Took, Way
from archcost.accelerating.layers import Layer
from archcost.accelerating.layouts import NCHW, Link, best_labels
from archcost.accelerating.program import Step
from archcost.paths.registry import get

__all__ = ["LEAST_GAIN", "Choice", "Measured", "Network", "choices"]

LEAST_GAIN = 0.03
"""A path that gains less of PyTorch's own time than this is not worth another layer."""
_OVERHEAD_S = 5e-6  # of `PathConv` beside a module of PyTorch's

Measured = Mapping[str, Mapping[Way, Took]]
"""By layer, the time of every path in every layout."""
Allowed = Callable[[Layer, str], bool]


class Choice(NamedTuple):
    """What a layer gets: a path, and the layouts that it reads and writes."""

    path: str
    reads: int
    writes: int
    seconds: float


@dataclass(frozen=True)
class Network:
    """How the layers hang together."""

    layers: tuple[Layer, ...]
    regions: Mapping[int, int]
    pinned: Mapping[int, int]
    """Layouts that are given."""
    bytes_per_second: float
    """Of a conversion from one layout to the other, read and written."""
    passes_per_second: float = inf
    """Bytes a second of an addition in place, or of a clamp: read and written."""
    programs: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    """Modules that are programs of the layers in them."""
    pools: tuple[str, ...] = ()
    """Max poolings that a kernel may do."""
    seconds: float = 0.0
    """Of one pass of the original, about."""


def labels_for(network: Network, measured: Measured, allowed: Allowed, fixed: int | None) -> dict[int, int]:
    """The layout of every region: one for all but those that are pinned, or where None is fixed the best."""
    named = {network.regions[storage] for layer in network.layers for pair in layer.ends for storage in pair}
    if fixed is not None:
        return {region: network.pinned.get(region, fixed) for region in named}
    links = []
    for layer in network.layers:
        table = [[_best(layer, measured, allowed, network, a, b).seconds for b in (0, 1)] for a in (0, 1)]
        costs = ((table[0][0], table[0][1]), (table[1][0], table[1][1]))
        if max(map(max, costs)) == inf:
            continue  # it was not measured, or has one layout only
        for source, target in layer.ends:
            links.append(Link(network.regions[source], network.regions[target], costs))
    return {**dict.fromkeys(named, NCHW), **best_labels(links, network.pinned)}


def choices(
    network: Network, measured: Measured, labels: Mapping[int, int], allowed: Allowed
) -> dict[str, Choice]:
    """By layer, the best path between the layouts chosen for what it reads and writes."""
    made: dict[str, Choice] = {}
    for layer in network.layers:
        source, target = (network.regions[storage] for storage in layer.ends[0])
        made[layer.name] = _best(layer, measured, allowed, network, labels[source], labels[target])
    return made


def _behind(layer: Layer, network: Network) -> float:
    """Seconds of adding and clamping behind a convolution that ends a sum; kernels do it as they write."""
    if layer.step is None or layer.step.adds is None:
        return 0.0
    passes = 1 if layer.step.clamp is None else 2
    return passes * 2 * layer.x.element_size() * layer.spec.neurons / network.passes_per_second


def _best(
    layer: Layer, measured: Measured, allowed: Allowed, network: Network, reads: int, writes: int
) -> Choice:
    """PyTorch's own unless another is faster by more than the noise and `LEAST_GAIN`."""
    took = measured.get(layer.name, {})
    two = layer.x.dim() in (4, 5)
    size = layer.x.element_size()
    converted = 2 * size * layer.spec.neurons / network.bytes_per_second + _OVERHEAD_S

    def seconds(path: str) -> float:
        there = took.get((path, reads if two else NCHW))
        if there is None:
            return inf
        compiled = get(path).implementation(layer.spec, layer.task.dtype) == "compiled"
        added = 0.0 if compiled else _behind(layer, network)
        if reads == writes or not two:
            return there.seconds + added
        other = took.get((path, writes))
        if other is not None and compiled:
            return max(there.seconds, other.seconds)  # it writes either layout as it goes
        return there.seconds + converted + added

    extra = 0.0 if layer.chain.batch_norm is not None else _OVERHEAD_S
    native = Choice("native", reads, writes, seconds("native"))
    best = native
    for path in dict.fromkeys(path for path, _ in took):
        if path != "native" and allowed(layer, path):
            found = Choice(path, reads, writes, seconds(path) + extra)
            best = min(best, found, key=lambda one: one.seconds)
    if best is native or native.seconds == inf or layer.chain.batch_norm is not None:
        return best  # with a batch normalisation to fold there is a new layer anyway
    noise = sum(took[path, reads if two else NCHW].noise for path in (best.path, "native"))
    enough = native.seconds - best.seconds > max(LEAST_GAIN * native.seconds, min(noise, native.seconds / 4))
    return best if enough else native
