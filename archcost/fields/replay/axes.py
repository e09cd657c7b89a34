"""Spatial axes: the dimensions of the inputs over which a convolution or pooling slides."""

from __future__ import annotations

import numpy as np

from archcost.fields.intervals.span import Span
from archcost.fields.intervals.taps import EMPTY
from archcost.fields.registry import slides
from archcost.fields.replay.replay import InputAxis, replay
from archcost.trace.graph import Op, TensorRef, Trace, refs

__all__ = ["spatial_axes"]


def spatial_axes(trace: Trace) -> tuple[InputAxis, ...]:
    """The spatial axes of all input tensors, in order.

    Where no window slides over an input, its rank decides: images (N, C, H, W), volumes
    (N, C, D, H, W), sequences (N, T, C), and integer tokens (N, T).
    """
    tensors = list(refs(trace.inputs))
    found: list[InputAxis] = []
    storages = [ref.storage for ref in tensors]
    reached = _windows(trace, set(storages))
    for t, ref in enumerate(tensors):
        if storages.index(ref.storage) != t:  # the same tensor again
            continue
        dims = _slid_over(trace, t, ref, reached.get(ref.storage))
        found += [InputAxis(t, d, ref.shape[d]) for d in dims]
    return tuple(found)


def _windows(trace: Trace, inputs: set[int]) -> dict[int, Op]:
    """The first window operation that depends on each input storage."""
    comes_from: dict[int, set[int]] = {s: {s} for s in inputs}
    first: dict[int, Op] = {}
    for op in trace.ops:
        sources: set[int] = set()
        for ref in op.tensors():
            sources |= comes_from.get(ref.storage, set())
        if not sources:
            continue
        for ref in op.outputs:
            comes_from[ref.storage] = comes_from.get(ref.storage, set()) | sources
        new = [s for s in sources if s not in first]
        if new and slides(op) and isinstance(op.args[0], TensorRef):
            for s in new:
                first[s] = op
            if len(first) == len(inputs):
                break
    return first


def _slid_over(trace: Trace, tensor: int, ref: TensorRef, window: Op | None) -> list[int]:
    if window is not None:
        candidates = [InputAxis(tensor, d, n) for d, n in enumerate(ref.shape) if n > 1]
        replayed = replay(trace, candidates, stop=window.index, keep=(window.args[0],))
        seen = replayed.outputs[0][1]
        if seen is not None:
            over = range(seen.rank - slides(window), seen.rank)
            dims = [
                axis.dim
                for axis, spans in zip(candidates, seen.axes, strict=True)
                if any(_moves(span, d) for span in spans for d in over)
            ]
            if dims:
                return dims
    whole = not ref.dtype.is_floating_point and not ref.dtype.is_complex
    by_rank = {2: [1] if whole else [], 3: [1], 4: [2, 3], 5: [2, 3, 4]}
    return by_rank.get(len(ref.shape), [])


def _moves(span: Span, dim: int) -> bool:
    """Whether non-empty intervals differ along a dimension."""
    if not span.varies(dim):
        return False
    lo = span.along(dim).values[0]
    blank = lo >= EMPTY // 2
    least = lo.min(dim)
    most = np.where(blank, -EMPTY, lo).max(dim)
    return bool((least < most).any())
