"""Coverage: the pixels inside a window that are read, of which dilated convolutions may skip a grid.

The replay is that of intervals with another seed: an exact row per pixel, 0 where it is read.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from archcost.fields.intervals.span import Span
from archcost.fields.intervals.taps import EMPTY
from archcost.fields.replay.read import InputAxes, centre_of, is_map, profile
from archcost.fields.replay.replay import Replay, interval_seed, replay
from archcost.trace.graph import Op, Trace
from archcost.trace.schema import arguments

__all__ = ["covered", "has_dilation", "support_of", "support_seed"]


@lru_cache(maxsize=16)
def _identity(size: int) -> np.ndarray:
    return np.where(np.eye(size, dtype=bool), 0, EMPTY)


def support_seed(size: int, rank: int, dim: int) -> Span:
    """The seed of an input axis: pixel i is read by itself alone; the local rows are those of an interval."""
    local = interval_seed(size, rank, dim)
    pixels = _identity(size).reshape(size, *(1,) * dim, size, *(1,) * (rank - dim - 1))
    return local.with_values(np.concatenate([pixels, local.values[-2:]]), local.steps)


def has_dilation(trace: Trace) -> bool:
    """Whether any convolution or pooling of a Trace is dilated."""
    return any(_dilation(op) > 1 for op in trace.ops)


def _dilation(op: Op) -> int:
    if "conv" not in op.name and "pool" not in op.name:
        return 1
    dilation = arguments(op).get("dilation", 1)
    return max((dilation,) if isinstance(dilation, int) else dilation, default=1)


def support_of(trace: Trace, inputs: InputAxes) -> Replay:
    """The replay of a Trace that tracks every pixel of an input separately."""
    return replay(trace, inputs.axes, seed=support_seed)


def covered(support: Replay, call: int, inputs: InputAxes) -> tuple[np.ndarray, ...] | None:
    """The pixels read by the centre of a call's output, as booleans per axis; None for no feature map."""
    local = InputAxes(inputs.tensor, inputs.axes, tuple(range(len(inputs.axes))))
    for intervals in support.calls[call]:
        if intervals is None or not is_map(intervals, local):
            continue
        at = centre_of(intervals, local)
        rows = (profile(intervals, axis, dim, at) for axis, dim in zip(local.which, at, strict=True))
        centres = (r[:-2, n if r.shape[1] > 1 else 0] for r, n in zip(rows, at.values(), strict=True))
        return tuple(centre < EMPTY // 2 for centre in centres)
    return None
