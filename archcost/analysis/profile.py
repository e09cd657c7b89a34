"""Profiles of a forward pass: activation memory over its operations, and the costs of its layers in order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from archcost.analysis.traced import TracedModel

__all__ = ["Alive", "LayerCost", "MemoryProfile", "layer_costs", "macs_by_kind", "memory_profile"]

_WEIGHTED = frozenset({"convolution", "matmul", "attention", "recurrent"})


@dataclass(frozen=True, slots=True)
class Alive:
    """A tensor that is alive at the peak: the operation that made it, and those over which it lives."""

    module: str
    operation: str
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class MemoryProfile:
    """Bytes of activations alive during each operation, with the peak and the tensors alive at it."""

    live: tuple[int, ...]
    peak: int
    """The index of the operation with the most bytes; the first of several."""
    module: str
    """The module that runs it."""
    alive: tuple[Alive, ...]
    """The largest first. What an operation needs beside its outputs is not among them."""


def memory_profile(analysis: TracedModel) -> MemoryProfile | None:
    """The activation memory of the inference pass; None for a pass without operations."""
    operations = analysis.operations
    if not operations:
        return None
    live = tuple(cost.live_bytes for cost in operations)
    peak = live.index(max(live))
    alive = []
    for storage in analysis.trace.storages:
        if storage.created_by is None:
            continue
        freed = len(live) - 1 if storage.freed_after is None else max(storage.freed_after, storage.created_by)
        if storage.created_by <= peak <= freed and storage.nbytes:
            maker = operations[storage.created_by]
            alive.append(Alive(maker.module, maker.op.label, storage.nbytes, storage.created_by, freed))
    alive.sort(key=lambda one: -one.nbytes)
    return MemoryProfile(live, peak, operations[peak].module, tuple(alive))


def macs_by_kind(analysis: TracedModel) -> dict[str, int]:
    """The MACs of a pass by kind of operation, the largest first."""
    found: Counter[str] = Counter()
    for cost in analysis.operations:
        found[cost.kind] += cost.macs or 0
    return {kind: macs for kind, macs in found.most_common() if macs}


@dataclass(frozen=True, slots=True)
class LayerCost:
    """The costs of a layer with weights at its place in the order of execution."""

    module: str
    kind: str
    macs: int | None
    params: int
    activation_bytes: int


def layer_costs(analysis: TracedModel) -> list[LayerCost]:
    """The operations with weights or matrix products, in order of execution.

    Parameters are those that the operation reads, each counted where it is first read.
    """
    storages = analysis.trace.storages
    seen: set[int] = set()
    found = []
    for cost in analysis.operations:
        if cost.kind not in _WEIGHTED:
            continue
        params = 0
        for ref in cost.op.tensors():
            if storages[ref.storage].origin == "parameter" and ref.storage not in seen:
                seen.add(ref.storage)
                params += storages[ref.storage].nbytes // ref.dtype.itemsize  # whole, also through a view
        found.append(LayerCost(cost.module, cost.kind, cost.macs, params, cost.activation_bytes))
    return found
