"""Span: the intervals of an input axis for every element of a tensor, as a broadcastable array.

A union is an element-wise minimum of the rows of ``values``, which are:

* ``lo`` and ``-hi`` of the *exact* interval: the first and last input index on which the element depends,
  without padding; for other seeds (`archcost.fields.replay.support`) a row per input index;
* ``lo`` and ``-hi`` of the *local* interval: the input continued beyond its borders, reductions over the
  full extent of the axis taken as constants.

The other dimensions are those of the tensor, of size 1 where nothing varies; elements with equal intervals
may be stored once, as a class (`archcost.fields.intervals.classes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import TypeVar

import numpy as np

from archcost.fields.intervals.classes import Map, Maps, compacted, flattened, unique_columns
from archcost.fields.intervals.steps import inferred, joined, nested, settled
from archcost.fields.intervals.taps import EMPTY, STILL, Step, Taps, gather, readable

# The most elements for which a mask is applied; larger masks are ignored.
_MOST_MASKED = 1 << 25

V = TypeVar("V")

__all__ = ["Span"]


class Span:
    """An immutable array of intervals, which tensors can share.

    ``steps`` is the movement of the local interval along each dimension; ``because`` is the index of the
    first operation that reduced over the full extent of the axis; ``maps`` is the class map of each
    dimension, None where no dimension has one.
    """

    __slots__ = ("_later", "_shape", "_values", "because", "maps", "origin", "steps")

    def __init__(
        self,
        values: np.ndarray | None,
        steps: tuple[Step, ...],
        because: int | None = None,
        maps: Maps | None = None,
    ) -> None:
        self._values = values
        self._shape: tuple[int, ...] = () if values is None else values.shape
        self._later: Callable[[], np.ndarray] | None = None
        self.steps = steps
        self.because = because
        self.maps = maps if maps is not None and any(m is not None for m in maps) else None
        self.origin: tuple[Span, tuple[int, ...], tuple[int, ...]] | None = None
        """(original Span, its shape, the new shape) for a reshaped Span; else None."""

    @property
    def values(self) -> np.ndarray:
        if self._values is None:
            assert self._later is not None
            self._values, self._later = self._later(), None
        return self._values

    @property
    def rows(self) -> int:
        return self._shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape[1:]

    def later(
        self, make: Callable[[], np.ndarray], shape: tuple[int, ...], steps: tuple[Step, ...], maps: Maps
    ) -> Span:
        """A Span whose values are computed on first use: many are only reshaped back."""
        out = Span(None, steps, self.because, maps)
        out._shape, out._later = shape, make
        return out

    def with_values(self, values: np.ndarray, steps: tuple[Step, ...], maps: Maps | None = None) -> Span:
        return Span(values, steps, self.because, maps)

    def map(self, dim: int) -> Map:
        return None if self.maps is None else self.maps[dim]

    def mapping(self, dim: int, found: Map) -> Maps:
        """The maps with that of dimension ``dim`` replaced."""
        maps = self.maps or (None,) * len(self.steps)
        return (*maps[:dim], found, *maps[dim + 1 :])

    def along(self, dim: int) -> Span:
        """The same Span with every element along ``dim`` stored, without classes."""
        found = self.map(dim)
        if found is None:
            return self
        return self.with_values(self.values.take(found, dim + 1), self.steps, self.mapping(dim, None))

    def plain(self) -> Span:
        """The same Span with every element stored, without classes."""
        span = self
        for dim in range(len(self.steps) if self.maps else 0):
            span = span.along(dim)
        return span

    def varies(self, dim: int) -> bool:
        return self._shape[dim + 1 if dim >= 0 else dim] > 1

    def moves_beside(self, dims: Sequence[int]) -> bool:
        """Whether the interval moves along any dimension other than ``dims``."""
        return any(step != STILL for d, step in enumerate(self.steps) if d not in dims)

    def _stepping(self, dim: int, step: Step) -> tuple[Step, ...]:
        return (*self.steps[:dim], step, *self.steps[dim + 1 :])

    # Windows

    def windows(self, dim: int, taps: Taps) -> Span:
        """The result of sliding a window along ``dim``."""
        step, found = self.steps[dim], self.map(dim)
        if not self.varies(dim) and step == STILL:
            return self
        plan, values, axis = gather(taps, step), self.values, dim + 1
        source, local, shift, which = plan.source, plan.local_source, plan.shift, None
        if found is not None:
            source, local = found[source], None if local is None else found[local]
            table = [part for part in (source, local, *(() if shift is None else shift)) if part is not None]
            first, which = unique_columns(np.concatenate(table))
            if len(first) == source.shape[1]:
                which = None
            else:
                source, local = source[:, first], None if local is None else local[:, first]
                shift = None if shift is None else shift[:, :, first]
        elif not self.varies(dim) and taps.size > 1:
            # It has a step but is stored once: store every position.
            values = np.repeat(values, taps.size, axis)
        taken = values.take(source, axis)
        if local is not None:
            taken[-2:] = values[-2:].take(local, axis)
        if shift is not None:
            tail = (1,) * (values.ndim - axis - 1)
            shift = shift.reshape(3, *(1,) * dim, *source.shape, *tail)
            taken[:-2] += shift[:1]
            taken[-2:] += shift[1:]
        out = taken.min(axis) if len(source) > 1 else taken.squeeze(axis)
        if shift is not None:
            np.minimum(out, EMPTY, out=out)
        if which is not None and len(source[0]) == 1:
            which = None  # all are one
        return self.with_values(out, self._stepping(dim, plan.step), self.mapping(dim, which))

    def silenced(self, dim: int, taps: Taps) -> Span:
        """The result, empty for outputs all of whose taps lie in the padding or do not exist."""
        found = readable(taps)
        if found is None:
            return self
        inside, exists = found
        span, maps = self.along(dim), self.mapping(dim, None)
        if not self.varies(dim):
            kinds, which = compacted(inside + 2 * exists.astype(np.int64))
            inside, exists = kinds % 2 == 1, kinds > 1
            maps = self.mapping(dim, which)
        shape = (1,) * dim + (-1,) + (1,) * (len(span.shape) - dim - 1)
        exact = np.where(inside.reshape(shape), span.values[:-2], EMPTY)
        local = np.where(exists.reshape(shape), span.values[-2:], EMPTY)
        return span.with_values(np.concatenate([exact, local]), span.steps, maps)

    # Reductions

    def reduced(self, dims: Sequence[int], shape: tuple[int, ...], op: int) -> Span:
        """The hull along ``dims``, which keep size 1; with constant local rows if the reduction is global.

        A reduction is global if the interval moves along no remaining dimension.
        """
        axes = tuple(d + 1 for d in dims if self.varies(d))
        moving = [d for d, step in enumerate(self.steps) if step != STILL and shape[d] > 1]
        met = [d for d in moving if d in dims]
        if not met and not axes:
            return self
        maps = self.maps and tuple(None if d in dims else m for d, m in enumerate(self.maps))
        values = self.values.min(axes, keepdims=True) if axes else self.values
        if not met:
            return self.with_values(values, self.steps, maps)
        if len(met) < len(moving):
            steps = tuple(STILL if d in dims else step for d, step in enumerate(self.steps))
            return self.with_values(values, steps, maps)
        if values is self.values:
            values = values.copy()
        values[-2:] = EMPTY
        because = op if self.because is None else self.because
        return Span(values, (STILL,) * len(self.steps), because, maps)

    def reduced_where(
        self, dim: int, rows: tuple[int, ...], kept: np.ndarray, shape: tuple[int, ...], op: int
    ) -> Span:
        """`reduced` along ``dim`` over the elements ``kept``, which differ along the dimensions ``rows``."""
        if not self.varies(dim):
            return self.reduced([dim], shape, op)
        span = self.plain()
        if not rows:
            values = np.where(kept[None], span.values, EMPTY)
            return span.with_values(values, span.steps).reduced([dim], shape, op)
        found = _hull_where(span.values, kept, dim, rows)
        if found is None:
            return self.reduced([dim], shape, op)
        steps = list(span.steps)
        steps[dim] = STILL
        for row in rows:
            if steps[row] == STILL and found.shape[row + 1] > 1:
                found, steps[row] = settled(found, row)
        return span.with_values(found, tuple(steps))

    # Shapes

    def permuted(self, order: Sequence[int]) -> Span:
        maps = self.maps and tuple(self.maps[d] for d in order)
        values = self.values.transpose(0, *(d + 1 for d in order))
        return self.with_values(values, tuple(self.steps[d] for d in order), maps)

    def inserted(self, dim: int) -> Span:
        return self._changed(dim, 0, 1)

    def dropped(self, dim: int) -> Span:
        return self._changed(dim, 1, 0)

    def _changed(self, dim: int, gone: int, new: int) -> Span:
        """The Span with ``gone`` dimensions at ``dim`` replaced by ``new`` dimensions of size 1."""

        def put(values: tuple[V, ...], blank: V) -> tuple[V, ...]:
            return (*values[:dim], *(blank,) * new, *values[dim + gone :])

        values = self.values.reshape(self.rows, *put(self.shape, 1))
        return self.with_values(values, put(self.steps, STILL), self.maps and put(self.maps, None))

    def taken(self, dim: int, source: np.ndarray, step: Step | None = None) -> Span:
        """The elements at the indices ``source`` along ``dim``."""
        if not self.varies(dim):
            still = self.steps if step is None else self._stepping(dim, step)
            return self if step is None else self.with_values(self.values, still, self.maps)
        found = self.map(dim)
        used, which = source, None
        if found is not None or len(source) > 2 * self.shape[dim]:
            used, which = compacted(source if found is None else found[source])
        values = self.values.take(used, dim + 1)
        if step is None:
            step = STILL
            if self.steps[dim] != STILL:
                step = inferred(values if which is None else values.take(which, dim + 1), dim)
        return self.with_values(values, self._stepping(dim, step), self.mapping(dim, which))

    def _came_from(self, new: tuple[int, ...], old: tuple[int, ...]) -> bool:
        """Whether ``new`` is its original shape, up to the size of a constant last dimension."""
        assert self.origin is not None
        _, before, after = self.origin
        still = not self.varies(-1) and self.steps[-1] == STILL
        wide = still and old[-1:] == new[-1:] and before[-1:] == after[-1:]
        end = -1 if wide else None
        return (before[:end], after[:end]) == (new[:end], old[:end])

    def reshaped(self, old: tuple[int, ...], new: tuple[int, ...]) -> Span:
        if self.origin is not None and self._came_from(new, old):
            return self.origin[0]  # there and back again
        blocks = matching_blocks(old, new)
        steps: list[Step] = [STILL] * len(new)
        sizes: list[int] = [1] * len(new)
        maps: list[Map] = [None] * len(new)
        flat: list[int] = []  # the classes of each block, and those that are picked from them
        picked: list[np.ndarray | None] = []
        unsettled: list[int] = []
        beside: list[int] = []
        for before, after in blocks:
            counts = [self.shape[d] for d in before]
            flat.append(prod(counts))
            picked.append(None)
            if flat[-1] == 1 and len(before) + len(after) > 2:
                continue
            given = [self.map(d) for d in before]
            found = given[0] if len(given) == 1 else flattened(given, counts, [old[d] for d in before])
            if len(after) == 1:
                sizes[after[0]], maps[after[0]] = flat[-1], found if flat[-1] > 1 else None
                steps[after[0]] = (
                    self.steps[before[0]]
                    if len(before) == 1
                    else joined([(self.steps[d], old[d]) for d in before])
                )
                continue
            grid = None if found is None else found.reshape([new[d] for d in after])
            varying = [d for i, d in enumerate(after) if grid is None or _differs(grid, i)]
            if len(varying) == 1 and grid is not None:
                line = grid[tuple(slice(None) if d in varying else 0 for d in after)]
                sizes[varying[0]], maps[varying[0]] = flat[-1], line if flat[-1] < len(line) else None
                picked[-1] = None if flat[-1] < len(line) else line
            else:
                for d in varying:
                    sizes[d] = new[d]
                if grid is not None:
                    picked[-1] = grid[tuple(slice(None) if d in varying else 0 for d in after)].ravel()
            moves = any(self.steps[d] != STILL for d in before) or not self.moves_beside(before)
            (unsettled if moves else beside).extend(varying)

        def make() -> np.ndarray:
            values = self.values.reshape(self.rows, *flat)
            for i, index in enumerate(picked):
                if index is not None:
                    values = values.take(index, i + 1)
            return values.reshape(self.rows, *sizes)

        if unsettled or beside:
            values = make()
            for d in (*unsettled, *beside):
                found = maps[d]
                if found is None:
                    values, step = settled(values, d)
                else:
                    step = inferred(values.take(found, d + 1), d)
                others = zip(steps, new, strict=True)
                steps[d] = step if d in unsettled or nested(step, new[d], others) else STILL
            out = self.with_values(values, tuple(steps), tuple(maps))
        else:
            out = self.later(make, (self.rows, *sizes), tuple(steps), tuple(maps))
        out.origin = (self, old, new)
        return out


def _differs(grid: np.ndarray, axis: int) -> bool:
    return bool((grid != grid.take([0], axis)).any())


def _hull_where(values: np.ndarray, kept: np.ndarray, dim: int, rows: tuple[int, ...]) -> np.ndarray | None:
    """The minimum along ``dim`` over the elements ``kept``; None where there are too many."""
    axis = dim + 1
    counts = kept.sum(dim, keepdims=True)
    order = np.arange(kept.shape[dim]).reshape((-1,) + (1,) * (kept.ndim - dim - 1))
    if (
        counts.all()
        and (kept == (order < counts)).all()
        and len(rows) == 1
        and values.shape[rows[0] + 1] == 1
    ):
        # The kept elements come first in each row, as in a causal mask.
        running = np.minimum.accumulate(values, axis)
        if all(n == 1 for d, n in enumerate(kept.shape) if d not in (dim, *rows)):
            taken = running.take(counts.ravel() - 1, axis)
            swapped: np.ndarray = np.swapaxes(taken, axis, rows[0] + 1)
            return swapped
    whole = np.broadcast_shapes(values.shape, (1, *kept.shape))
    if prod(whole) > _MOST_MASKED:
        return None
    hull: np.ndarray = np.where(kept, values, EMPTY).min(axis, keepdims=True)
    return hull


@lru_cache(maxsize=4096)
def matching_blocks(
    old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Groups of dimensions with the same elements before and after a reshape, in order, without size 1."""
    left = [d for d, n in enumerate(old) if n != 1]
    right = [d for d, n in enumerate(new) if n != 1]
    blocks = []
    while left and right:
        before, after = [left.pop(0)], [right.pop(0)]
        a, b = old[before[0]], new[after[0]]
        while a != b:
            if a < b:
                before.append(left.pop(0))
                a *= old[before[-1]]
            else:
                after.append(right.pop(0))
                b *= new[after[-1]]
        blocks.append((tuple(before), tuple(after)))
    return tuple(blocks)
