"""Read the ReceptiveField of a position from the intervals of a tensor."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np

from archcost.errors import SpecError
from archcost.fields.field import ReceptiveField, Window
from archcost.fields.intervals.intervals import Intervals
from archcost.fields.intervals.taps import EMPTY, STILL, Step
from archcost.fields.replay.replay import InputAxis
from archcost.trace.graph import Trace, refs

__all__ = ["InputAxes", "centre_of", "extent_of", "is_map", "places", "profile", "read_field"]


class InputAxes(NamedTuple):
    """The tracked axes of an input tensor, and their indices among all tracked axes."""

    tensor: int
    axes: tuple[InputAxis, ...]
    which: tuple[int, ...]


def places(intervals: Intervals, inputs: InputAxes) -> tuple[int, ...]:
    """The dimensions of the tensor that index its positions, in order of the input's axes."""
    return tuple(dict.fromkeys(dim for axis in inputs.which for dim in intervals.along(axis)))


def extent_of(intervals: Intervals, inputs: InputAxes) -> tuple[int, ...]:
    """The number of positions along each dimension in `places`."""
    return tuple(intervals.shape[dim] for dim in places(intervals, inputs))


def centre_of(intervals: Intervals, inputs: InputAxes) -> dict[int, int]:
    """The index of the centre along each dimension in `places`."""
    return {dim: intervals.shape[dim] // 2 for dim in places(intervals, inputs)}


def is_map(intervals: Intervals, inputs: InputAxes) -> bool:
    """Whether a tensor is a spatial feature map: every input axis moves along its own dimension."""
    dims = [intervals.along(axis) for axis in inputs.which]
    return all(len(d) == 1 for d in dims) and len({d[0] for d in dims}) == len(dims)


def profile(intervals: Intervals, axis: int, dim: int | None, at: dict[int, int]) -> np.ndarray:
    """The rows of an input axis along ``dim``, with ``at`` fixed and the hull over the rest: (rows, n)."""
    rows = []
    for span in intervals.axes[axis]:
        values = span.values
        if values.size != len(values) * (1 if dim is None else values.shape[dim + 1]):
            for d, index in at.items():
                if d != dim and span.varies(d):
                    found = span.map(d)
                    values = values.take([index if found is None else found[index]], d + 1)
            hull = tuple(d + 1 for d, n in enumerate(span.shape) if d != dim and n > 1 and d not in at)
            values = values.min(hull) if hull else values
        flat = values.reshape(len(values), -1)
        along = None if dim is None else span.map(dim)
        rows.append(flat if along is None else flat.take(along, 1))
    if not rows:
        return np.full((4, 1), EMPTY)
    return reduce(np.minimum, rows)


def _width(window: Window) -> int:
    return window[1] - window[0] + 1


def _window(lo: int, minus_hi: int) -> Window:
    return (lo, -minus_hi) if lo < EMPTY // 2 else (0, -1)


class _Axis(NamedTuple):
    window: Window
    local: Window
    sizes: tuple[int, ...]
    stride: float
    padding: float
    because: int | None


def read_field(
    trace: Trace,
    seen: Intervals | Sequence[Intervals],
    inputs: InputAxes,
    layer: str,
    position: Sequence[int] | int | None = None,
) -> ReceptiveField:
    """The receptive field of a position of a tensor.

    Args:
        trace: the Trace.
        seen: the intervals of the tensor, or of several with the same positions, for their union.
        inputs: the input tensor.
        layer: the module's name in the field.
        position: an index per position dimension, negative from the end; by default the centre.

    Raises:
        SpecError: there is no such position.
    """
    parts = [seen] if isinstance(seen, Intervals) else seen
    where = _position(extent_of(parts[0], inputs), layer, position)
    found = [_read_axis(parts, inputs, axis, where) for axis in inputs.which]
    sizes = tuple(axis.size for axis in inputs.axes)
    alone = all(a.because is None for a in found)
    local = ReceptiveField(
        layer=layer,
        size=tuple(_width(a.local) for a in found),
        stride=tuple(a.stride for a in found),
        padding=tuple(a.padding for a in found),
        position=where,
        window=tuple(a.window if alone else _clip(a.local, n) for a, n in zip(found, sizes, strict=True)),
        unclipped=tuple(a.local for a in found),
        sizes=tuple(a.sizes for a in found),
        because=(None,) * len(found),
        input_size=sizes,
        input_index=inputs.tensor,
        input_name=_name_of_input(trace, inputs.tensor),
    )
    if alone:
        return local
    each = [
        (_width(a.local), a.stride, a.padding, a.sizes, None)
        if a.because is None
        else (_width(a.window), 0, 0, (_width(a.window),), _why(trace, a.because))
        for a in found
    ]
    size, stride, padding, all_sizes, because = zip(*each, strict=True)
    return replace(
        local,
        size=size,
        stride=stride,
        padding=padding,
        sizes=all_sizes,
        because=because,
        window=tuple(a.window for a in found),
        unclipped=tuple(_hull(a.window, a.local) for a in found),
        _local=local,
    )


def _position(extent: tuple[int, ...], layer: str, position: Sequence[int] | int | None) -> tuple[int, ...]:
    if position is None:
        return tuple(n // 2 for n in extent)
    try:
        given = tuple(map(operator.index, position if isinstance(position, Iterable) else (position,)))
    except TypeError:
        raise SpecError(f"receptive_field: position {position!r} does not consist of integers") from None
    what = f"the output of {layer or 'the model'} has positions {'x'.join(map(str, extent)) or 'of no kind'}"
    if len(given) != len(extent):
        raise SpecError(f"receptive_field: position {position!r} does not fit: {what}")
    where = tuple(p + n if p < 0 else p for p, n in zip(given, extent, strict=True))
    if any(not 0 <= p < n for p, n in zip(where, extent, strict=True)):
        raise SpecError(f"receptive_field: position {position!r} lies outside: {what}")
    return where


def _read_axis(parts: Sequence[Intervals], inputs: InputAxes, axis: int, where: tuple[int, ...]) -> _Axis:
    rows = np.full((4, 1), EMPTY)
    here, step, because = 0, STILL, None
    for intervals in parts:
        at = dict(zip(places(intervals, inputs), where, strict=True))
        dim = next(iter(intervals.along(axis)), None)
        own = profile(intervals, axis, dim, at)
        rows = np.minimum(rows, own)
        if dim is not None and own.shape[1] > 1:
            here = at[dim]
        for span in intervals.axes[axis]:
            if dim is not None:
                step = max(step, span.steps[dim])
            if span.because is not None:
                because = span.because if because is None else min(because, span.because)
    if because is not None and _grows(rows[2:]):
        rows[2:] = EMPTY
    ends = rows[:, here].tolist()
    exact, local = _window(*ends[:2]), _window(*ends[2:])
    stride, padding, sizes = _closed(rows[2:], here, step)
    return _Axis(exact, local, sizes, stride, padding, because)


def _grows(local: np.ndarray) -> bool:
    """Whether windows have one constant and one moving end, as in a direction of a recurrent layer.

    Beside a global dependence these are no local field: both directions together see everything.
    """
    moved = np.abs(np.diff(local))
    still, moving = (moved == 0).all(1), (moved > 0).all(1)
    return local.shape[1] > 2 and bool((local < EMPTY // 2).all()) and bool(still.any() and moving.any())


def _closed(local: np.ndarray, here: int, step: Step) -> tuple[float, float, tuple[int, ...]]:
    """Stride, padding and the sizes that occur within a period around ``here``."""
    if local[0, here] >= EMPTY // 2:
        return 0, 0, (0,)
    period, advance = step
    first = here // period * period
    lows, minus_highs = local[:, first : first + period].tolist()
    seen = {1 - lo - minus_hi for lo, minus_hi in zip(lows, minus_highs, strict=True) if lo < EMPTY // 2}
    stride = advance / period
    if period > 1 and not advance:  # it never repeats: the mean advance
        known = np.flatnonzero(local[0] < EMPTY // 2)
        if len(known) > 1:
            moved = float(local[0, known[-1]] - local[0, known[0]])
            stride = round(moved / int(known[-1] - known[0]), 3)
    padding = first * stride - lows[0] if lows[0] < EMPTY // 2 else 0
    return _plain(stride), _plain(padding), tuple(sorted(seen))


def _plain(value: float) -> float:
    return int(value) if value == int(value) else float(value)


def _clip(window: Window, size: int) -> Window:
    lo, hi = max(window[0], 0), min(window[1], size - 1)
    return (lo, hi) if lo <= hi else (0, -1)


def _hull(one: Window, other: Window) -> Window:
    known = [w for w in (one, other) if w[0] <= w[1]]
    return (min(w[0] for w in known), max(w[1] for w in known)) if known else (0, -1)


def _name_of_input(trace: Trace, tensor: int) -> str | None:
    """``input 1``, with its argument name if passed by keyword; None for a single input."""
    if len(list(refs(trace.inputs))) < 2:
        return None
    args, kwargs = trace.inputs
    given = [(None, args), *kwargs.items()]
    names = [name for name, value in given for _ in refs(value)]
    name = names[tensor]
    return f"input {tensor}" + (f" ({name})" if name is not None else "")


def _why(trace: Trace, index: int) -> str:
    if index < 0:
        return "writes into overlapping views"
    op = trace.ops[index]
    outer, _, leaf = trace.module_of(op).rpartition(".")
    where = f"`{leaf}` in `{outer}`" if outer else f"`{leaf}`" if leaf else "the model's own forward"
    return f"{where} ({op.label})"
