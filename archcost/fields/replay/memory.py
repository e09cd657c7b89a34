"""Interval memory: the intervals of each storage, consistent across views and in-place writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.intervals.span import Span
from archcost.fields.intervals.steps import nested, settled
from archcost.fields.intervals.taps import EMPTY, STILL
from archcost.fields.intervals.unions import Spans, collapsed, unite
from archcost.trace.graph import TensorRef

__all__ = ["IntervalMemory", "written"]

# The most elements stored individually where views do not align; beyond, all elements get the hull of all.
_MOST_ELEMENTS = 1 << 24
# The most elements stored after a write into a box; beyond, it is united with the previous intervals.
_MOST_WRITTEN = 1 << 20

Box = tuple[slice, ...]


class _Shape(NamedTuple):
    """The layout of a view in its storage."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    itemsize: int

    @classmethod
    def of(cls, ref: TensorRef) -> _Shape:
        return cls(ref.shape, ref.stride, ref.offset, ref.dtype.itemsize)

    @property
    def is_dense(self) -> bool:
        """Whether the view has no gaps, in any order of its dimensions."""
        order = sorted(zip(self.shape, self.stride, strict=True), key=lambda pair: (pair[1], pair[0]))
        return _without_gaps(order)

    @property
    def is_contiguous(self) -> bool:
        """Whether the view has no gaps, with the last dimension fastest."""
        return _without_gaps(zip(reversed(self.shape), reversed(self.stride), strict=True))


def _without_gaps(dims: Iterable[tuple[int, int]]) -> bool:
    """Whether the strides of (size, stride) pairs, fastest first, are the products of the sizes before."""
    expected = 1
    for n, s in dims:
        if n != 1 and s != expected:
            return False
        expected *= n
    return True


class _Block:
    """A storage: the intervals of its base view, and of other views that are still valid."""

    __slots__ = ("base", "intervals", "views")

    def __init__(self, base: _Shape, intervals: Intervals | None) -> None:
        self.base = base
        self.intervals = intervals
        self.views: dict[_Shape, Intervals | None] = {base: intervals}


class IntervalMemory:
    """The intervals of all storages that depend on the input."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}

    def __contains__(self, storage: int) -> bool:
        return storage in self._blocks

    def read(self, ref: TensorRef) -> Intervals | None:
        block = self._blocks.get(ref.storage)
        if block is None or 0 in ref.shape:
            return None
        key = _Shape.of(ref)
        if key not in block.views:
            block.views[key] = _derived(block.base, block.intervals, key)
        return block.views[key]

    def put(self, ref: TensorRef, intervals: Intervals | None) -> None:
        """Set the intervals of a new tensor, or of a view of a known storage."""
        key = _Shape.of(ref)
        block = self._blocks.get(ref.storage)
        if block is not None:
            block.views[key] = intervals
        elif intervals is not None:
            self._blocks[ref.storage] = _Block(key, intervals)

    def write(
        self,
        ref: TensorRef,
        intervals: Intervals | None,
        nbytes: int,
        made: TensorRef | None = None,
        copied: bool = True,
    ) -> None:
        """Set the intervals of a view written in place; other views are derived again when they are read.

        Args:
            ref: the view.
            intervals: the intervals written.
            nbytes: the size of the storage.
            made: the tensor as which the storage was allocated.
            copied: whether the values are copied there, and not computed from the previous ones.
        """
        if 0 in ref.shape:
            return
        key = _Shape.of(ref)
        block = self._blocks.get(ref.storage)
        if prod(ref.shape) * key.itemsize >= nbytes or (block is None and intervals is None):
            if intervals is None:
                self._blocks.pop(ref.storage, None)
            else:
                self._blocks[ref.storage] = _Block(key, intervals)
            return
        if block is None:
            # It did not depend on the input before.
            whole = None if made is None else _Shape.of(made)
            if whole is None or whole.itemsize != key.itemsize or not whole.is_dense:
                whole = _like(_Shape((nbytes // key.itemsize,), (1,), 0, key.itemsize), key)
            block = self._blocks[ref.storage] = _Block(whole, None)
        after = _assigned(block.base, block.intervals, key, intervals, copied)
        self._blocks[ref.storage] = block = _Block(block.base, after)
        block.views[key] = intervals

    def flood(self, ref: TensorRef, intervals: Intervals) -> None:
        """Let the whole storage have the intervals of ``ref``."""
        self._blocks[ref.storage] = _Block(_Shape.of(ref), intervals)


def _like(flat: _Shape, view: _Shape) -> _Shape:
    """The storage as a dense tensor of the view's rank if the view can be a box in it; else ``flat``."""
    strides = view.stride
    order = sorted(range(len(strides)), key=lambda d: -strides[d])
    if not order or 0 in strides or strides[order[-1]] != 1 or len(set(strides)) != len(strides):
        return flat
    sizes = [0] * len(strides)
    outer = flat.shape[0]
    for d in order:
        if outer % strides[d]:
            return flat
        sizes[d] = outer // strides[d]
        outer = strides[d]
    return _Shape(tuple(sizes), strides, 0, flat.itemsize)


def _box(base: _Shape, view: _Shape) -> Box | None:
    """The slices of ``base`` that ``view`` covers; None where it is not a box of the same dimensions."""
    if len(base.shape) != len(view.shape) or base.itemsize != view.itemsize or not base.is_dense:
        return None
    rest = view.offset - base.offset
    if rest < 0:
        return None
    box = [slice(0, 1, 1)] * len(base.shape)
    for d in sorted(range(len(base.shape)), key=lambda d: (-base.stride[d], -base.shape[d])):
        n, m = base.shape[d], view.shape[d]
        if n == 1:
            if m != 1:
                return None
            continue
        start, rest = divmod(rest, base.stride[d])
        step, left = divmod(view.stride[d], base.stride[d]) if m > 1 else (1, 0)
        if left or step < 1 or start + (m - 1) * step >= n:
            return None
        box[d] = slice(start, start + (m - 1) * step + 1, step)
    return tuple(box) if rest == 0 else None


def _selected(base: _Shape, view: _Shape) -> list[int]:
    """The dimensions of ``base`` in which ``view`` selects a single element; empty if it is no selection."""
    strides = list(view.stride)
    gone = []
    for d, stride in enumerate(base.stride):
        if strides and strides[0] == stride:
            strides.pop(0)
        else:
            gone.append(d)
    return gone if not strides and len(gone) + len(view.shape) == len(base.shape) else []


def _coordinates(base: _Shape, view: _Shape) -> list[np.ndarray] | None:
    """The indices in ``base`` of each element of ``view``, an array per dimension; None if there are none."""
    if base.itemsize != view.itemsize or not base.is_dense or prod(view.shape) > _MOST_ELEMENTS:
        return None
    where = np.full((1,) * len(view.shape), view.offset - base.offset)
    for d, (n, s) in enumerate(zip(view.shape, view.stride, strict=True)):
        along = (np.arange(n) * s).reshape((1,) * d + (-1,) + (1,) * (len(view.shape) - d - 1))
        where = where + along
    if where.size and (where.min() < 0 or where.max() >= prod(base.shape)):
        return None
    return [
        (where // s) % n if n > 1 else np.zeros_like(where)
        for n, s in zip(base.shape, base.stride, strict=True)
    ]


def _derived(base: _Shape, intervals: Intervals | None, view: _Shape) -> Intervals | None:
    if intervals is None:
        return None
    if len(view.shape) > len(base.shape) and view.shape[0] == 1:  # an added batch dimension
        inner = _derived(base, intervals, view._replace(shape=view.shape[1:], stride=view.stride[1:]))
        return inner and inner.unsqueeze(0)
    whole = base.itemsize == view.itemsize and base.offset == view.offset
    if whole and prod(base.shape) == prod(view.shape) and base.is_contiguous and view.is_contiguous:
        return intervals.reshape(view.shape)
    box = _box(base, view)
    if box is not None:
        out = intervals
        for d, part in enumerate(box):
            if part != slice(0, base.shape[d], 1):
                out = out.slice(d, part.start, part.stop, part.step)
        return out
    where = _coordinates(base, view)
    if where is None:
        return intervals.everything(view.shape, -1)

    def pick(span: Span) -> Span:
        span = span.plain()
        at: tuple[np.ndarray, ...] = tuple(
            w if span.varies(d) else np.zeros_like(w) for d, w in enumerate(where)
        )
        index: tuple[slice | np.ndarray, ...] = (slice(None), *at)
        values = np.broadcast_to(span.values[index], (span.rows, *view.shape))
        found = [STILL] * len(view.shape)
        for d in range(len(view.shape)):
            if values.shape[d + 1] > 1:
                values, found[d] = settled(values, d)
        # Overlapping windows: the axis is the dimension that extends furthest, and those nested in it.
        steps = [STILL] * len(view.shape)
        for d in sorted(range(len(found)), key=lambda d: -found[d][1] / found[d][0] * view.shape[d]):
            if nested(found[d], view.shape[d], zip(steps, view.shape, strict=True)):
                steps[d] = found[d]
        return span.with_values(values, tuple(steps))

    return intervals.each(view.shape, pick)


def _assigned(
    base: _Shape, before: Intervals | None, view: _Shape, new: Intervals | None, copied: bool
) -> Intervals | None:
    """``base`` after ``new`` has been written into ``view`` of it."""
    if before is None and new is None:
        return None
    while len(view.shape) > len(base.shape) and view.shape[0] == 1:  # an added batch dimension
        view = view._replace(shape=view.shape[1:], stride=view.stride[1:])
        new = new and new.squeeze(0)
    for d in _selected(base, view):
        shape, stride = ((*dims[:d], 1, *dims[d:]) for dims in (view.shape, view.stride))
        view, new = view._replace(shape=shape, stride=stride), new and new.unsqueeze(d)
    box = _box(base, view)
    if box is not None:
        return written(before, base.shape, box, new, copied)
    where = _coordinates(base, view)
    known = before or new
    assert known is not None  # one of them is not
    if where is None or prod(base.shape) > _MOST_ELEMENTS:
        parts = [part.everything(base.shape, -1) for part in (before, new) if part is not None]
        return union(parts, base.shape)
    axes: list[Spans] = []
    for axis in range(len(known.axes)):
        old, put = _one(before, axis), _one(new, axis)
        first = put if old is None else old
        if first is None:
            axes.append(())
            continue
        rows = first.rows
        values = np.full((rows, *base.shape), EMPTY)
        if old is not None:
            values[:] = old.values
        index: tuple[slice | np.ndarray, ...] = (slice(None), *np.broadcast_arrays(*where))
        values[index] = EMPTY if put is None else np.broadcast_to(put.values, (rows, *view.shape))
        axes.append((_settle(values, old, put),))
    return Intervals(base.shape, axes)


def _one(intervals: Intervals | None, axis: int) -> Span | None:
    span = None if intervals is None else collapsed(intervals.axes[axis])
    return None if span is None else span.plain()


def _is_even(span: Span, dim: int) -> bool:
    return span.steps[dim] == STILL and bool((span.values == span.values.take([0], dim + 1)).all())


def _settle(values: np.ndarray, *parts: Span | None, still: Sequence[int] = ()) -> Span:
    """The Span of ``values``, assembled from parts, without steps along the dimensions ``still``."""
    because = min((p.because for p in parts if p is not None and p.because is not None), default=None)
    known = [p for p in parts if p is not None]
    rank = values.ndim - 1
    steps = [STILL] * rank
    moving = [any(len(p.steps) == rank and p.steps[d] != STILL for p in known) for d in range(rank)]
    for d in sorted(range(rank), key=lambda d: not moving[d]):
        if values.shape[d + 1] > 1:
            values, step = settled(values, d)
            # Beside an axis, a dimension whose slices were written separately is not an axis.
            axis = d not in still and nested(
                step, values.shape[d + 1], zip(steps, values.shape[1:], strict=True)
            )
            if moving[d] or axis:
                steps[d] = step
    return Span(values, tuple(steps), because)


def _spans(intervals: Intervals | None, axis: int) -> Spans:
    return () if intervals is None else intervals.axes[axis]


def _placed(span: Span, shape: Sequence[int], box: Box) -> Span:
    """The Span of a box as a Span of the whole tensor, empty outside along dimensions where it varies."""
    span = span.plain()
    values, steps = span.values, list(span.steps)
    if span.rows * prod(n for d, n in enumerate(shape) if span.varies(d)) > _MOST_WRITTEN:
        return span.with_values(
            values.min(tuple(range(1, values.ndim)), keepdims=True), (STILL,) * len(shape)
        )
    for d, n in enumerate(shape):
        if span.varies(d) and values.shape[d + 1] != n:
            whole = np.full((*values.shape[: d + 1], n, *values.shape[d + 2 :]), EMPTY)
            whole[(slice(None),) * (d + 1) + (box[d],)] = values
            values, steps[d] = settled(whole, d)
    return span.with_values(values, tuple(steps))


def written(
    before: Intervals | None, shape: Sequence[int], box: Box, new: Intervals | None, copied: bool = True
) -> Intervals | None:
    """The intervals of a tensor of ``shape`` after ``new`` is written into a box of it.

    Where storing that would be too large, the result is the union of the previous intervals and the new.
    """
    known = before or new
    if known is None:
        return None
    partial = [part.indices(n) != (0, n, 1) for part, n in zip(box, shape, strict=True)]
    axes: list[Spans] = []
    for axis in range(len(known.axes)):
        there, put = _spans(before, axis), _spans(new, axis)
        if not there and not put:
            axes.append(())
            continue
        # Stored along the dimensions that the box cuts, and those along which something varies.
        wide = [
            n if partial[d] or any(span.varies(d) for span in (*there, *put)) else 1
            for d, n in enumerate(shape)
        ]
        rows = (there or put)[0].rows
        if rows * prod(wide) > _MOST_WRITTEN:
            axes.append(unite(there, tuple(_placed(span, shape, box) for span in put)))
            continue
        values = np.full((rows, *wide), EMPTY)
        for span in there:
            np.minimum(values, span.plain().values, out=values)
        where = (part if w > 1 else slice(None) for part, w in zip(box, wide, strict=True))
        index = (slice(None), *where)
        values[index] = EMPTY
        for span in put:
            values[index] = np.minimum(values[index], span.plain().values)
        # Slices that are copied form an axis; slices changed in place, as the gates of a cell, do not.
        still = [
            d
            for d, (part, n) in enumerate(zip(box, shape, strict=True))
            if not copied and len(range(*part.indices(n))) > 1 and all(_is_even(span, d) for span in put)
        ]
        axes.append((_settle(values, *there, *put, still=still),))
    return Intervals(shape, axes)
