"""Steps: the period and advance of intervals along a dimension, through reshapes or inferred from values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from archcost.fields.intervals.taps import STILL, Step

__all__ = ["inferred", "joined", "nested", "settled"]


def joined(dims: Sequence[tuple[Step, int]]) -> Step:
    """The step along several dimensions flattened into one, from their steps and sizes."""
    (period, advance), size = dims[-1]
    for (outer, further), n in reversed(dims[:-1]):
        if not (outer == 1 and advance and size % period == 0 and advance * (size // period) == further):
            # The inner dimension restarts: a longer period.
            period, advance = (
                (1, 0) if (period, advance) == STILL == (outer, further) else (outer * size, further)
            )
        size *= n
    return period, advance


def nested(step: Step, size: int, others: Iterable[tuple[Step, int]]) -> bool:
    """Whether a dimension subdivides the steps of the other dimensions of its axis, or they subdivide its.

    The taps of overlapping windows do not, and are no dimension of the axis.
    """
    reach = step[1] * size / step[0]
    return all(
        other == STILL or (step[1] and (reach <= other[1] or other[1] * n / other[0] <= step[1]))
        for other, n in others
    )


def inferred(values: np.ndarray, dim: int) -> Step:
    """The step of the local rows along a dimension, inferred from their values.

    Where one end is constant, as after a causal mask, the other end decides.
    """
    size = values.shape[dim + 1]
    if size < 2:
        return STILL
    local = np.moveaxis(values[-2:], dim + 1, -1)
    for still, moving in ((0, 1), (1, 0)):
        if (local[still] == local[still][..., :1]).all():
            local = np.stack([local[moving], -local[moving]]) * (1 if moving == 0 else -1)
            break
    sample = local.reshape(2, -1, size)[:, 0]
    for period in range(1, min(size // 2, 64) + 1):
        ahead = sample[:, period:] - sample[:, :-period]
        if (ahead != ahead[:, :1]).any() or ahead[0, 0] != -ahead[1, 0]:
            continue
        every = local[..., period:] - local[..., :-period]
        if (every == np.array([1, -1]).reshape(2, *(1,) * (every.ndim - 1)) * ahead[0, 0]).all():
            advance = int(ahead[0, 0])
            return STILL if advance == 0 and period == 1 else (period, advance)
    return (size, 0)


def settled(values: np.ndarray, dim: int) -> tuple[np.ndarray, Step]:
    """The values with a constant dimension collapsed to size 1, and the step along the dimension."""
    first = values.take([0], dim + 1)
    if (values == first).all():
        return first, STILL
    return values, inferred(values, dim)
