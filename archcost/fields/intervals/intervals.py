"""Intervals: the input positions on which the elements of a tensor depend, along every tracked axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

import numpy as np

from archcost.fields.intervals.span import Span
from archcost.fields.intervals.taps import EMPTY, STILL, Taps, next_step, readable, transposed, window
from archcost.fields.intervals.unions import Spans, collapsed, concatenate, unite

__all__ = ["Intervals", "union"]


class Intervals:
    """The intervals of a tensor of ``shape``: a union of `Span`s per input axis. Methods return new objects.

    Dimensions may be negative. The argument ``op`` of reductions is the index of the operation in the Trace:
    the first operation that makes an axis global is recorded.
    """

    __slots__ = ("_moving", "axes", "shape")

    def __init__(self, shape: Sequence[int], axes: Iterable[Spans]) -> None:
        self.shape = tuple(shape)
        self.axes = tuple(axes)
        self._moving: dict[int, tuple[int, ...]] = {}

    def along(self, axis: int) -> tuple[int, ...]:
        """The dimensions of the tensor along which the interval of an input axis moves."""
        if axis not in self._moving:
            advances: dict[int, int] = {}
            for span in self.axes[axis]:
                for d, step in enumerate(span.steps):
                    if step != STILL:
                        advances[d] = max(advances.get(d, 0), step[1])
            moving = [d for d, advance in advances.items() if advance] or list(advances)
            # A dimension of size 1 counts only where no other moves: a position cut from a sequence.
            several = [d for d in moving if self.shape[d] > 1]
            self._moving[axis] = tuple(sorted(several or moving))
        return self._moving[axis]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def each(self, shape: Sequence[int], change: Callable[[Span], Span]) -> Intervals:
        """``change`` applied to every Span, for a tensor of ``shape``."""
        shape = tuple(shape)
        axes = tuple(tuple(map(change, spans)) for spans in self.axes)
        if shape == self.shape and all(
            a is b for s, t in zip(axes, self.axes, strict=True) for a, b in zip(s, t, strict=True)
        ):
            return self
        return Intervals(shape, (unite(spans) if len(spans) > 1 else spans for spans in axes))

    def dim(self, dim: int) -> int:
        """A dimension as a number from 0, where it may be negative."""
        return dim + self.rank if dim < 0 else dim

    def _sized(self, dim: int, *sizes: int) -> tuple[int, ...]:
        """The shape with dimension ``dim`` replaced by ``sizes``."""
        return (*self.shape[:dim], *sizes, *self.shape[dim + 1 :])

    def _dims(self, dims: int | Sequence[int] | None) -> tuple[int, ...]:
        if dims is None or (not isinstance(dims, int) and len(dims) == 0):
            return tuple(range(self.rank))
        return tuple(self.dim(d) for d in ((dims,) if isinstance(dims, int) else dims))

    # Windows and reductions

    def windows(self, taps: dict[int, Taps]) -> Intervals:
        """The result of sliding a window along each dimension in ``taps``."""
        shape = list(self.shape)
        for dim, t in taps.items():
            shape[dim] = t.outputs

        def slide(span: Span) -> Span:
            for dim, t in taps.items():
                span = span.windows(dim, t)
            for dim, t in blind:
                span = span.silenced(dim, t)
            return span

        blind = [(dim, t) for dim, t in taps.items() if readable(t) is not None]
        return self.each(shape, slide)

    def reduce(self, dims: int | Sequence[int] | None, op: int, keepdim: bool = True) -> Intervals:
        """The hull along ``dims``, or along all dimensions if None."""
        which = self._dims(dims)
        out = self.each(self.shape, lambda span: span.reduced(which, self.shape, op))
        out = Intervals(tuple(1 if d in which else n for d, n in enumerate(self.shape)), out.axes)
        if keepdim:
            return out
        for d in sorted(which, reverse=True):
            out = out.squeeze(d)
        return out

    def reduce_where(self, dim: int, kept: np.ndarray | None, op: int) -> Intervals:
        """The hull along ``dim`` over the elements where the booleans ``kept`` are true.

        It is not a reduction over the full extent where ``kept`` differs between rows.
        """
        dim = self.dim(dim)
        if kept is None or kept.shape[dim] == 1:
            return self.reduce([dim], op)
        rows = tuple(d for d, n in enumerate(kept.shape) if n > 1 and d != dim)
        shape = [1 if d == dim else max(n, kept.shape[d]) for d, n in enumerate(self.shape)]

        def hull(span: Span) -> Span:
            return span.reduced_where(dim, rows, kept, self.shape, op)

        return self.each(shape, hull)

    def mixed(self, dims: int | Sequence[int] | None, op: int, kept: np.ndarray | None = None) -> Intervals:
        """Each element depends on itself and all others along ``dims``: softmax, normalisation.

        For a single dimension, only on the others in ``kept``, as in `reduce_where`.
        """
        reduced = self.reduce_where(dims, kept, op) if isinstance(dims, int) else self.reduce(dims, op)
        axes = (unite(a, b) for a, b in zip(self.axes, reduced.axes, strict=True))
        return Intervals(self.shape, axes)

    def to_the_end(self, dim: int, op: int) -> Intervals:
        """Each element depends on those from it to the end of the input, which is constant locally."""
        dim = self.dim(dim)

        def close(span: Span) -> Span:
            if not span.varies(dim):
                return span
            values = span.values.copy()
            values[-2:] = EMPTY
            return Span(values, span.steps, op if span.because is None else span.because, span.maps)

        return self.each(self.shape, close)

    def running(self, dim: int) -> Intervals:
        """Each element depends on itself and those before it along ``dim``: cumulative sums, causal masks."""
        dim = self.dim(dim)

        def accumulate(span: Span) -> Span:
            if not span.varies(dim):
                return span
            span = span.along(dim)
            return span.with_values(np.minimum.accumulate(span.values, dim + 1), span.steps, span.maps)

        return self.each(self.shape, accumulate)

    def everything(self, shape: Sequence[int], op: int) -> Intervals:
        """Every element of ``shape`` depends on all that this tensor depends on."""
        reduced = self.reduce(None, op)
        shape = tuple(shape)
        flat = (1,) * len(shape)
        axes = (
            tuple(Span(s.values.reshape(s.rows, *flat), (STILL,) * len(shape), s.because) for s in spans)
            for spans in reduced.axes
        )
        return Intervals(shape, (unite(spans) for spans in axes))

    # Shapes

    def reshape(self, shape: Sequence[int]) -> Intervals:
        shape = tuple(shape)
        if shape == self.shape:
            return self
        if not prod(shape):
            return Intervals(shape, ((),) * len(self.axes))
        return self.each(shape, lambda span: span.reshaped(self.shape, shape))

    def permute(self, order: Sequence[int]) -> Intervals:
        order = self._dims(order)
        return self.each([self.shape[d] for d in order], lambda span: span.permuted(order))

    def transpose(self, one: int, other: int) -> Intervals:
        if not self.rank:
            return self
        order = list(range(self.rank))
        one, other = self.dim(one), self.dim(other)
        order[one], order[other] = other, one
        return self.permute(order)

    def unsqueeze(self, dim: int) -> Intervals:
        dim = dim + self.rank + 1 if dim < 0 else dim
        return self.each((*self.shape[:dim], 1, *self.shape[dim:]), lambda span: span.inserted(dim))

    def squeeze(self, dim: int) -> Intervals:
        dim = self.dim(dim)
        return self.each(self._sized(dim), lambda span: span.dropped(dim))

    def expand(self, shape: Sequence[int]) -> Intervals:
        """Broadcast to ``shape``; new dimensions come first."""
        shape = tuple(shape)
        if shape == self.shape:
            return self
        new = len(shape) - self.rank

        def widen(span: Span) -> Span:
            values = span.values.reshape(span.rows, *(1,) * new, *span.shape) if new else span.values
            # A broadcast dimension does not move.
            kept = tuple(
                step if n == shape[new + d] else STILL
                for d, (step, n) in enumerate(zip(span.steps, self.shape, strict=True))
            )
            return span.with_values(
                values, ((STILL,) * new) + kept, span.maps and ((None,) * new) + span.maps
            )

        if not new and all(
            n == m or all(s.steps[d] == STILL for spans in self.axes for s in spans)
            for d, (n, m) in enumerate(zip(self.shape, shape, strict=True))
        ):
            return Intervals(shape, self.axes)
        return self.each(shape, widen)

    def unfold(
        self, dim: int, size: int, kernel: int, stride: int, low: int, dilation: int, count: int
    ) -> Intervals:
        """The taps of a window as a new dimension before ``dim``, which then indexes positions (im2col)."""
        parts = [
            self.windows({dim: window(size, 1, stride, low - t * dilation, 1, count)}).unsqueeze(dim)
            for t in range(kernel)
        ]
        joined = cat([(part, 1) for part in parts], dim, self._sized(dim, kernel, count))
        assert joined is not None  # the parts are not None
        return joined

    def fold(self, taps: int, dim: int, size: int, stride: int, low: int, dilation: int) -> Intervals:
        """The inverse of `unfold` (col2im): ``taps`` indexes offsets, and gets size 1; ``dim`` positions."""
        parts = [
            self.select(taps, t)
            .unsqueeze(taps)
            .windows({dim: transposed(self.shape[dim], 1, stride, low - t * dilation, 1, size)})
            for t in range(self.shape[taps])
        ]
        folded = union(parts, parts[0].shape)
        assert folded is not None  # the parts are not None
        return folded

    # Picking elements

    def take(self, dim: int, source: Sequence[int] | np.ndarray) -> Intervals:
        """The elements at ``source`` along a dimension."""
        dim, index = self.dim(dim), np.asarray(source, dtype=np.int64)
        return self.each(self._sized(dim, len(index)), lambda span: span.taken(dim, index))

    def slice(self, dim: int, start: int, stop: int, stride: int = 1) -> Intervals:
        """Elements start, start + stride, ... below stop."""
        dim = self.dim(dim)
        index = np.arange(start, stop, stride)
        if len(index) == self.shape[dim] and stride == 1:
            return self

        def picked(span: Span) -> Span:
            return span.taken(dim, index, next_step(span.steps[dim], (stride, 1), len(index)))

        return self.each(self._sized(dim, len(index)), picked)

    def select(self, dim: int, index: int) -> Intervals:
        dim = self.dim(dim)
        index = index + self.shape[dim] if index < 0 else index
        return self.slice(dim, index, index + 1).squeeze(dim)

    def flip(self, dim: int) -> Intervals:
        return self.take(dim, np.arange(self.shape[dim])[::-1])

    def roll(self, dim: int, shift: int) -> Intervals:
        return self.take(dim, np.roll(np.arange(self.shape[dim]), shift))

    def repeat(self, dim: int, times: int) -> Intervals:
        """The whole dimension ``times`` over: 0 1 2 0 1 2."""
        return self if times == 1 else self.take(dim, np.tile(np.arange(self.shape[dim]), times))

    def repeat_each(self, dim: int, times: int) -> Intervals:
        """Every element ``times`` over: 0 0 1 1 2 2."""
        return self if times == 1 else self.take(dim, np.repeat(np.arange(self.shape[dim]), times))

    def nothing(self) -> bool:
        """Whether no element depends on the input."""
        return all((span.values >= EMPTY // 2).all() for spans in self.axes for span in spans)


def union(parts: Iterable[Intervals | None], shape: Sequence[int]) -> Intervals | None:
    """The union of operands broadcast to ``shape`` (element-wise operations); None has no dependence."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    first = known[0].expand(shape)
    if len(known) == 1 or all(part is known[0] for part in known):
        return first
    wide = [first, *(part.expand(shape) for part in known[1:])]
    return Intervals(shape, (unite(*spans) for spans in zip(*(w.axes for w in wide), strict=True)))


def cat(
    pieces: Sequence[tuple[Intervals | None, int]], dim: int, shape: Sequence[int], new: bool = False
) -> Intervals | None:
    """The concatenation of pieces along ``dim``, each with its size there; ``new`` for a new dimension."""
    known = next((piece for piece, _ in pieces if piece is not None), None)
    if known is None:
        return None
    rank = len(shape)
    dim = dim + rank if dim < 0 else dim
    axes: list[Spans] = []
    for axis in range(len(known.axes)):
        spans = [(collapsed(p.axes[axis]) if p is not None else None, n) for p, n in pieces]
        rows = next((s.rows for s, _ in spans if s is not None), 0)
        axes.append((concatenate(spans, dim, rows, rank, new),) if rows else ())
    return Intervals(shape, axes)
