"""Taps: the input positions that each output position of a window or resize reads, along a dimension."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np

# The bound of an empty interval: larger than any index, small enough that sums stay within int64.
EMPTY = 1 << 40

Step = tuple[int, int]
"""(period, advance): the interval moves by ``advance`` input pixels every ``period`` positions."""
STILL: Step = (1, 0)


class Taps(NamedTuple):
    """The taps of a window: output ``o`` reads ``positions[t, o]`` for each tap ``t``.

    Positions outside the input are skipped, clamped or reflected, as ``outside`` says. ``rate`` is (a, b):
    the window moves by a positions every b outputs. ``holes`` marks taps that do not exist, between the
    elements of a transposed convolution.
    """

    positions: np.ndarray
    rate: tuple[int, int]
    outside: str = "skip"
    holes: np.ndarray | None = None
    size: int = 0
    """The size of the dimension that is read."""

    @property
    def outputs(self) -> int:
        return int(self.positions.shape[1])


class Gather(NamedTuple):
    """Taps for a step: take ``source`` along the dimension, add ``shift``, and take the minimum over taps.

    The rows of ``shift`` are for the exact rows, the local lo and the local -hi. ``local_source`` is given
    where the local rows read other elements than the exact rows.
    """

    source: np.ndarray
    local_source: np.ndarray | None
    shift: np.ndarray | None
    step: Step


@lru_cache(maxsize=4096)
def window(size: int, kernel: int, stride: int, low: int, dilation: int, outputs: int) -> Taps:
    """Taps of a convolution or pooling: output o reads o * stride - low + t * dilation, padding skipped."""
    positions = np.arange(kernel)[:, None] * dilation + (np.arange(outputs) * stride - low)[None, :]
    return Taps(positions, (stride, 1), size=size)


@lru_cache(maxsize=1024)
def transposed(size: int, kernel: int, stride: int, low: int, dilation: int, outputs: int) -> Taps:
    """Taps of a transposed convolution: o = i * stride - low + t * dilation, solved for i."""
    ahead = np.arange(outputs)[None, :] + low - np.arange(kernel)[:, None] * dilation
    return Taps(ahead // stride, (1, stride), holes=ahead % stride != 0, size=size)


@lru_cache(maxsize=1024)
def adaptive(size: int, outputs: int) -> Taps:
    """Taps of adaptive pooling: output o reads [floor(o n / m), ceil((o + 1) n / m))."""
    first = [o * size // outputs for o in range(outputs)]
    last = [-(-(o + 1) * size // outputs) - 1 for o in range(outputs)]
    widest = max(b - a for a, b in zip(first, last, strict=True)) + 1
    positions = np.minimum(np.array(first)[None, :] + np.arange(widest)[:, None], np.array(last)[None, :])
    return Taps(positions, _reduced(size, outputs), size=size)


def _reduced(a: int, b: int) -> tuple[int, int]:
    common = gcd(a, b) or 1
    return a // common, b // common


def _ratio(size: int, outputs: int, scale: float | None) -> tuple[int, int]:
    """Inputs per output as a fraction; ``scale`` is outputs / inputs where the caller passed it."""
    if scale is None or scale * size == outputs:
        return _reduced(size, outputs)
    # PyTorch computes with 1 / scale in floating point, which a fraction approximates.
    inverse = Fraction(1 / scale).limit_denominator(1 << 20)
    return inverse.numerator, inverse.denominator


@lru_cache(maxsize=1024)
def nearest(size: int, outputs: int, exact: bool, double: bool, scale: float | None = None) -> Taps:
    """Taps of nearest-neighbour resizing; ``exact`` samples at the centre of an output, else at its start.

    Computed in PyTorch's precision, whose rounding decides at whole numbers.
    """
    kind = np.float64 if double else np.float32
    ratio = kind(1 / scale) if scale else kind(size) / kind(outputs)
    at = (np.arange(outputs, dtype=kind) + kind(exact / 2)) * ratio
    first = np.minimum(np.floor(at.astype(np.float32)), size - 1).astype(np.int64)
    return Taps(first[None, :], _ratio(size, outputs, scale), size=size)


@lru_cache(maxsize=1024)
def resize(
    size: int, outputs: int, cubic: bool, align_corners: bool = False, scale: float | None = None
) -> Taps:
    """Taps of linear and cubic interpolation with non-zero weight; positions beyond the border are clamped.

    Source: the formulas of ``torch.nn.functional.interpolate``.
    """
    out = np.arange(outputs)
    if align_corners:
        # (n - 1) / (m - 1) inputs per output.
        above, below = rate = _reduced(size - 1, outputs - 1) if outputs > 1 else (0, 1)
        first, rest = np.divmod(out * above, below)
    else:
        # The centre of output o is (o + 1/2) n / m - 1/2.
        above, below = rate = _ratio(size, outputs, scale)
        first, rest = np.divmod((2 * out + 1) * above - below, 2 * below)
    around = (-1, 0, 1, 2) if cubic else (0, 1)
    positions = np.stack([np.where(rest == 0, first, first + t) for t in around])
    return Taps(positions, rate, "clamp", size=size)


@lru_cache(maxsize=256)
def antialiased(
    size: int, outputs: int, radius: int, align_corners: bool = False, scale: float | None = None
) -> Taps:
    """Taps of antialiased interpolation, whose filter widens with the scale where the image is reduced.

    Source: ``_compute_weights_aa`` of PyTorch: support = radius * max(scale, 1).
    """
    if align_corners:
        ratio = (size - 1) / (outputs - 1) if outputs > 1 else 0.0
    else:
        ratio = 1 / scale if scale else size / outputs
    wide = max(ratio, 1.0)
    rows = []
    for o in range(outputs):
        centre = ratio * (o + 0.5)
        first, last = int(centre - radius * wide + 0.5), int(centre + radius * wide + 0.5)
        reach = [(i, abs(i + 0.5 - centre) / wide) for i in range(max(first, 0), min(last, size))]
        # Both filters are zero at whole distances other than 0.
        rows.append([i for i, d in reach if d < 0.5 or abs(d - round(d)) > 1e-6] or [first])
    widest = max(map(len, rows))
    positions = np.array([row + row[-1:] * (widest - len(row)) for row in rows]).T
    return Taps(positions, _reduced(size, outputs), size=size)


@lru_cache(maxsize=1024)
def pad(size: int, low: int, high: int, outside: str) -> Taps:
    """Taps of padding by constants (skip), the border (clamp) or mirrored (reflect); negative pads crop."""
    return Taps((np.arange(size + low + high) - low)[None, :], (1, 1), outside, size=size)


def _mirror(positions: np.ndarray, size: int) -> np.ndarray:
    folded = np.abs(positions)
    mirrored: np.ndarray = np.where(folded >= size, 2 * (size - 1) - folded, folded)
    return mirrored


# Keyed by identity: Taps are cached, so that equal taps are the same object.
_gathers: dict[tuple[int, Step], tuple[Taps, Gather]] = {}


def gather(taps: Taps, step: Step) -> Gather:
    """The Gather of taps for tensors that advance by ``step`` along the dimension, cached."""
    key = (id(taps.positions), step)
    found = _gathers.get(key)
    if found is None or found[0].positions is not taps.positions:
        if len(_gathers) > 8192:
            _gathers.clear()
        found = _gathers[key] = (taps, _gather(taps, step))
    return found[1]


def _gather(taps: Taps, step: Step) -> Gather:
    positions, size = taps.positions, taps.size
    inside = np.clip(positions, 0, size - 1)
    beyond = positions != inside
    exact = _mirror(positions, size) if taps.outside == "reflect" else inside
    local, advance = _beyond(positions, inside, beyond, size, step)
    exact_shift = np.zeros_like(positions)
    if taps.outside == "skip":
        exact_shift[beyond] = EMPTY
    if taps.holes is not None:
        exact_shift[taps.holes] = EMPTY
        # lo and -hi move in opposite directions, but a hole is empty in both.
        low, high = advance.copy(), -advance
        low[taps.holes] = high[taps.holes] = EMPTY
    else:
        low, high = advance, -advance
    shift = np.stack([exact_shift, low, high])
    return Gather(
        exact,
        None if np.array_equal(exact, local) else local,
        shift if shift.any() else None,
        next_step(step, taps.rate, taps.outputs),
    )


def _beyond(
    positions: np.ndarray, inside: np.ndarray, beyond: np.ndarray, size: int, step: Step
) -> tuple[np.ndarray, np.ndarray]:
    """For positions outside: the element whose local rows are continued there, and the distance in pixels."""
    period, advance = step
    if not beyond.any() or not advance:  # without a period, nothing is continued
        return inside, np.zeros_like(positions)
    if period == 1:
        return inside, (positions - inside) * advance
    if period <= size:
        # The nearest element of the same phase.
        low = np.where(positions < 0, positions % period, positions)
        high = size - period + (positions - size + period) % period
        source = np.where(positions >= size, high, low)
        return source, (positions - source) // period * advance
    return inside, np.floor((positions - inside) * (advance / period)).astype(np.int64)


def next_step(step: Step, rate: tuple[int, int], outputs: int) -> Step:
    """The step of the output of a window with ``rate`` over an input with ``step``."""
    period, advance = step
    if step == STILL:
        return STILL
    if advance == 0:  # it never repeats
        return (max(outputs, 2), 0)
    a, b = rate
    if a == 0:
        return STILL
    turns = period // gcd(a, period)
    return (b * turns, advance * a * turns // period)


def readable(taps: Taps) -> tuple[np.ndarray, np.ndarray] | None:
    """Whether any tap of each output lies inside, and whether any exists; None if all lie inside."""
    exists = np.ones(taps.positions.shape, bool) if taps.holes is None else ~taps.holes
    inside = exists
    if taps.outside == "skip":
        inside = exists & (taps.positions >= 0) & (taps.positions < taps.size)
    some = np.asarray(inside.any(0))
    return None if some.all() else (some, np.asarray(exists.any(0)))
