"""Unions and concatenations of Spans, merged into one array where that widens no interval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import gcd, prod

import numpy as np

from archcost.fields.intervals.classes import Map, same, together
from archcost.fields.intervals.span import Span
from archcost.fields.intervals.steps import inferred
from archcost.fields.intervals.taps import EMPTY, STILL, Step

__all__ = ["Spans", "collapsed", "concatenate", "unite"]

Spans = tuple[Span, ...]
"""A union of Spans, kept apart where they vary along different dimensions, as queries and keys do."""

_MOST_SPANS = 4
_MOST_JOINED = 1 << 23
_LARGE = 1 << 14


def unite(*unions: Spans) -> Spans:
    """The union of unions of Spans over tensors of the same shape."""
    found: list[Span] = []
    for spans in unions:
        for span in spans:
            if not any(span is other for other in found):
                _add(found, span)
    while len(found) > _MOST_SPANS:
        found.sort(key=lambda s: prod(s.shape))
        first = found.pop(0)
        found[0] = _merged(first, found[0])
    return tuple(found)


def collapsed(spans: Spans) -> Span | None:
    """The union as a single Span, which may be wider; None for an empty union."""
    whole: Span | None = None
    for span in spans:
        whole = span if whole is None else _merged(whole, span)
    return whole


def _add(found: list[Span], span: Span) -> None:
    for i, other in enumerate(found):
        if (_covers(other, span) or _covers(span, other)) and not _grows(other, span):
            del found[i]
            _add(found, _merged(other, span))
            return
    found.append(span)


def _covers(wide: Span, narrow: Span) -> bool:
    """Whether ``wide`` varies along every dimension along which ``narrow`` does."""
    return all(n == 1 or w > 1 for w, n in zip(wide.shape, narrow.shape, strict=True))


def _grows(a: Span, b: Span) -> bool:
    """Whether an array of both would be far larger than the two arrays, because their classes cross."""
    if not (a.maps or b.maps):
        return False
    size = 1
    for d, (n, m) in enumerate(zip(a.shape, b.shape, strict=True)):
        one, other = a.map(d), b.map(d)
        crossed = n > 1 and m > 1 and not same(one, other)
        whole = max(n, m, *(len(found) for found in (one, other) if found is not None), 1)
        size *= min(n * m, whole) if crossed else max(n, m)
    return size > _LARGE and size > 4 * (prod(a.shape) + prod(b.shape))


def _merged(a: Span, b: Span) -> Span:
    one, other = a.values, b.values
    maps: list[Map] = [None] * len(a.steps)
    for d in range(len(maps)) if a.maps or b.maps else ():
        if a.varies(d) and b.varies(d) and not same(a.map(d), b.map(d)):
            from_a, from_b, maps[d] = together(a.map(d), a.shape[d], b.map(d), b.shape[d])
            one, other = one.take(from_a, d + 1), other.take(from_b, d + 1)
        else:
            maps[d] = a.map(d) if a.varies(d) else b.map(d)
    values = np.minimum(one, other)
    steps = a.steps
    if a.steps != b.steps:
        steps = tuple(
            step if step == other else _common(step, other)
            for step, other in zip(a.steps, b.steps, strict=True)
        )
    because = (
        a.because if b.because is None else b.because if a.because is None else min(a.because, b.because)
    )
    return Span(values, steps, because, tuple(maps))


def _common(one: Step, other: Step) -> Step:
    """The common step of two Spans; without a period where they move at different rates."""
    if one == STILL or other == STILL:
        return other if one == STILL else one
    period = one[0] * other[0] // gcd(one[0], other[0])
    if one[1] * other[0] == other[1] * one[0] and one[1]:
        return (period, one[1] * period // one[0])
    return (1 << 20, 0)


def concatenate(pieces: Sequence[tuple[Span | None, int]], dim: int, rows: int, rank: int, new: bool) -> Span:
    """The concatenation of pieces along ``dim``, each with its size there; None has no dependence.

    A ``new`` dimension belongs to the axis if the pieces move along no other dimension.
    """
    pieces = [(span, n) for span, n in pieces if n]
    known = [span for span, _ in pieces if span is not None]
    for d in range(rank):
        # Classes along other dimensions are kept where all pieces have the same.
        maps = [span.map(d) for span in known if span.varies(d)]
        if d != dim and not all(same(m, maps[0]) for m in maps[1:]):
            known = [span.along(d) for span in known]
    written = iter(known)
    because = min((s.because for s in known if s.because is not None), default=None)
    moves = any(s.steps[dim] != STILL for s in known) or (
        new and not any(s.moves_beside([dim]) for s in known)
    )
    wide = [max(s.shape[d] for s in known) for d in range(rank)]
    parts: list[np.ndarray] = []
    which: list[np.ndarray] = []
    count = 0
    for piece, size in pieces:
        span = Span(np.full((rows, *(1,) * rank), EMPTY), (STILL,) * rank) if piece is None else next(written)
        if moves:
            span = span.along(dim)
        found, classes = span.map(dim), size if moves else span.shape[dim]
        which.append(np.broadcast_to(np.arange(classes) if found is None else found, (size,)) + count)
        count += classes
        parts.append(np.broadcast_to(span.values, (rows, *wide[:dim], classes, *wide[dim + 1 :])))
    steps = list(known[0].steps)
    for span in known[1:]:
        if span.steps != tuple(steps):
            steps = [s if s == o else _common(s, o) for s, o in zip(steps, span.steps, strict=True)]
    steps[dim] = STILL
    others = [next((s.map(d) for s in known if s.varies(d)), None) for d in range(rank)]
    if sum(part.size for part in parts) > _MOST_JOINED:
        # Too large: every piece gets the hull of all.
        hull = reduce(np.minimum, (part.min(dim + 1, keepdims=True) for part in parts))
        others[dim] = None
        return Span(hull, tuple(steps), because, tuple(others))
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, dim + 1)
    others[dim] = None
    if not moves and 1 < count < sum(n for _, n in pieces):
        others[dim] = np.concatenate(which)
    if moves and joined.shape[dim + 1] > 1:
        steps[dim] = inferred(joined, dim)
    return Span(joined, tuple(steps), because, tuple(others))
