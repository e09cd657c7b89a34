"""Which layout each tensor of a network has in memory: chosen for the network as a whole, by a minimum cut.

Additions, concatenations, pools and activations hand on the layout of what they are given, so all tensors
that they join have the same one: a region. Convolutions lie between regions, and each takes its own time for
each layout of what it reads and of what it writes. For a chain of layers the best choice is a shortest path;
for a network with branches it is a minimum cut, exact as long as no convolution is faster with its two sides
in different layouts than in the same one (and none is: it then runs in one of the two, and converts).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from archcost.trace.graph import Op, TensorRef, Trace, refs
from archcost.trace.inputs import tensors_in

if TYPE_CHECKING:
    import torch

__all__ = ["CHANNELS_LAST", "NCHW", "Link", "best_labels", "memory_format", "pinned_by_views", "regions"]

NCHW, CHANNELS_LAST = 0, 1

_KEEPS = frozenset(
    "relu relu6 hardtanh clamp clamp_min clamp_max silu gelu elu selu celu leaky_relu hardswish hardsigmoid "
    "sigmoid tanh mish softplus exp neg abs sqrt pow add sub mul div maximum minimum dropout native_dropout "
    "native_batch_norm _native_batch_norm_legit_no_training native_group_norm max_pool2d_with_indices "
    "max_pool3d_with_indices avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d cat clone "
    "upsample_nearest2d upsample_bilinear2d constant_pad_nd _to_copy _prelu_kernel where".split()
)
_VIEWS = frozenset({"aten.view", "aten._unsafe_view", "aten._reshape_alias"})


def memory_format(label: int, axes: int) -> torch.memory_format:
    """The layout of that label, for tensors of so many spatial axes."""
    import torch

    last = {2: torch.channels_last, 3: torch.channels_last_3d}.get(axes)
    return last if label == CHANNELS_LAST and last is not None else torch.contiguous_format


@dataclass(frozen=True)
class Link:
    """A convolution between two regions: its seconds for each layout of what it reads, then writes."""

    source: int
    target: int
    costs: tuple[tuple[float, float], tuple[float, float]]


def regions(trace: Trace) -> dict[int, int]:
    """By storage, the region it belongs to, named by one of its storages."""
    parents = {storage.index: storage.index for storage in trace.storages}

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for op in trace.ops:
        if keeps_layout(op):
            joined = [ref.storage for ref in (*op.tensors(), *op.outputs) if is_image(ref)]
            for storage in joined[1:]:
                parents[root(storage)] = root(joined[0])
    return {index: root(index) for index in parents}


def keeps_layout(op: Op) -> bool:
    """Whether the operation's result has the layout of what it is given."""
    _, _, name = op.base.partition(".")
    if name == "clone" and op.kwargs.get("memory_format") is not None:
        return str(op.kwargs["memory_format"]) in ("torch.preserve_format", "<memory_format>")
    return name.removesuffix("_") in _KEEPS or name in _KEEPS


def is_image(ref: TensorRef) -> bool:
    """Whether layout means anything for it: several channels, and several pixels."""
    return len(ref.shape) in (4, 5) and ref.shape[1] > 1 and prod(ref.shape[2:]) > 1


def pinned_by_views(trace: Trace, found: Mapping[int, int]) -> dict[int, int]:
    """Regions whose pixels are seen as something else than pixels, which `view` can only do in NCHW."""
    pinned: dict[int, int] = {}
    for op in trace.ops:
        if op.base in _VIEWS and op.args and isinstance(op.args[0], TensorRef) and is_image(op.args[0]):
            before = op.args[0].shape
            after = op.outputs[0].shape
            axes = len(before) - 2
            if after[-axes:] != before[-axes:] or len(after) < len(before):
                pinned[found[op.args[0].storage]] = NCHW
    return pinned


def pinned_by_ends(trace: Trace, found: Mapping[int, int], inputs: Any, outputs: Any) -> dict[int, int]:
    """Regions of the model's inputs and outputs, whose layout is given: that of these real tensors."""
    pinned: dict[int, int] = {}
    for traced, real in ((trace.outputs, outputs), (trace.inputs, inputs)):
        places, tensors = list(refs(traced)), tensors_in(real)
        if len(places) == len(tensors):
            for ref, tensor in zip(places, tensors, strict=True):
                if is_image(ref) and ref.storage in found:
                    pinned[found[ref.storage]] = label_of(tensor)
    return pinned


def label_of(tensor: torch.Tensor) -> int:
    """The layout that a tensor has."""
    return CHANNELS_LAST if tensor.dim() > 3 and tensor.stride(1) == 1 and tensor.shape[1] > 1 else NCHW


def best_labels(links: Iterable[Link], pinned: Mapping[int, int]) -> dict[int, int]:
    """The layout of each region for which all convolutions together take the least time.

    The energy is a sum over links of costs[a][b] with costs[0][1] + costs[1][0] >= costs[0][0] +
    costs[1][1], so that one cut of a graph with a node for each region is the optimum (Kolmogorov and Zabih,
    2004). Costs are rounded to nanoseconds. What violates the inequality is raised until it holds.
    """
    import networkx  # type: ignore[import-untyped]

    links = list(links)
    weights: dict[int, int] = {}
    pairs: dict[tuple[int, int], int] = {}
    for link in links:
        (both, last), (first, neither) = [[round(1e9 * cost) for cost in row] for row in link.costs]
        for region in (link.source, link.target):
            weights.setdefault(region, 0)
        if link.source == link.target:
            weights[link.source] += neither - both
            continue
        excess = max(0, last + first - both - neither)
        # costs[a][b] = both + (first - both) a + (neither - first) b + excess (1 - a) b
        weights[link.source] += first - both
        weights[link.target] += neither - first
        pairs[link.source, link.target] = pairs.get((link.source, link.target), 0) + excess
    graph = networkx.DiGraph()
    graph.add_nodes_from(("nchw", "channels_last"))
    infinite = 1 + sum(map(abs, weights.values())) + sum(pairs.values())
    for region, weight in weights.items():
        if region in pinned:
            weight = -infinite if pinned[region] == CHANNELS_LAST else infinite
        if weight > 0:
            graph.add_edge("nchw", region, capacity=weight)
        elif weight < 0:
            graph.add_edge(region, "channels_last", capacity=-weight)
    for (source, target), capacity in pairs.items():
        if capacity:
            graph.add_edge(source, target, capacity=capacity)
    _, (side, _) = networkx.minimum_cut(graph, "nchw", "channels_last")
    kept = {region: NCHW if region in side else CHANNELS_LAST for region in weights}
    return {**pinned, **kept}
