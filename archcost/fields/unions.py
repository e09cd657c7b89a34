"""Unions of Spans: of operands, merged where that makes nothing wider, and of pieces after one another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import gcd, prod

import numpy as np

from archcost.fields.span import Span, inferred
from archcost.fields.taps import EMPTY, STILL, Step

__all__ = ["Spans", "collapsed", "concatenate", "unite"]

Spans = tuple[Span, ...]
"""Their union. Kept apart where one varies along other dimensions than another: queries and keys."""

_MOST_SPANS = 4
_MOST_JOINED = 1 << 23


def unite(*unions: Spans) -> Spans:
    """The union of unions over tensors of the same shape."""
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
    """The union as one Span, however wide that makes it."""
    whole: Span | None = None
    for span in spans:
        whole = span if whole is None else _merged(whole, span)
    return whole


def _add(found: list[Span], span: Span) -> None:
    for i, other in enumerate(found):
        a, b = _alike(other, span)
        if _covers(a.shape, b.shape) or _covers(b.shape, a.shape):
            del found[i]
            _add(found, _merged(a, b))
            return
    found.append(span)


def _alike(a: Span, b: Span) -> tuple[Span, Span]:
    """Both with the same runs, or one of them constant along those of the other; else written out."""
    if a.runs == b.runs:
        return a, b
    dim = (a.runs or b.runs)[0]  # type: ignore[index]
    if (a.runs is None and not a.varies(dim)) or (b.runs is None and not b.varies(dim)):
        return a, b
    return a.plain(), b.plain()


def _covers(wide: tuple[int, ...], narrow: tuple[int, ...]) -> bool:
    return all(n in (1, w) for w, n in zip(wide, narrow, strict=True))


def _merged(a: Span, b: Span) -> Span:
    a, b = _alike(a, b)
    values = np.minimum(a.values, b.values)
    steps = a.steps
    if a.steps != b.steps:
        steps = tuple(
            step if step == other else _common(step, other)
            for step, other in zip(a.steps, b.steps, strict=True)
        )
    because = (
        a.because if b.because is None else b.because if a.because is None else min(a.because, b.because)
    )
    return Span(values, steps, because, a.runs or b.runs)


def _common(one: Step, other: Step) -> Step:
    """A step that both keep to; where they move at different rates it never repeats."""
    if one == STILL or other == STILL:
        return other if one == STILL else one
    period = one[0] * other[0] // gcd(one[0], other[0])
    if one[1] * other[0] == other[1] * one[0] and one[1]:
        return (period, one[1] * period // one[0])
    return (1 << 20, 0)


def concatenate(pieces: Sequence[tuple[Span | None, int]], dim: int, rows: int, rank: int) -> Span:
    """Pieces after one another along ``dim``, each with its size there; None sees nothing."""
    known = [span for span, _ in pieces if span is not None]
    because = min((s.because for s in known if s.because is not None), default=None)
    moves = any(s.steps[dim] != STILL for s in known)
    still = not moves and not any(s.varies(dim) and s.runs is None for s in known)
    if any(s.runs is not None and s.runs[0] != dim for s in known):
        return concatenate([(None if s is None else s.plain(), n) for s, n in pieces], dim, rows, rank)
    wide = [1] * rank
    for span in known:
        wide = [max(a, b) for a, b in zip(wide, span.shape, strict=True)]
    parts: list[np.ndarray] = []
    lengths: list[int] = []
    piece_lengths: tuple[int, ...]
    for piece, size in pieces:
        if size == 0:
            continue
        if piece is None:
            values, piece_lengths = np.full((rows, *(1,) * rank), EMPTY), (size,)
        elif still:
            values = piece.values
            piece_lengths = piece.runs[1] if piece.runs is not None else (size,)
        else:
            values = piece.plain().values
            piece_lengths = ()
        along = values.shape[dim + 1] if still else size
        target = (rows, *wide[:dim], along, *wide[dim + 1 :])
        parts.append(values if values.shape == target else np.broadcast_to(values, target))
        lengths.extend(piece_lengths)
    steps = list(known[0].steps)
    for span in known[1:]:
        if span.steps != tuple(steps):
            steps = [s if s == o else _common(s, o) for s, o in zip(steps, span.steps, strict=True)]
    if sum(part.size for part in parts) > _MOST_JOINED:
        # Too many to keep apart: each piece is taken to see what any of them sees.
        hull = reduce(np.minimum, (part.min(dim + 1, keepdims=True) for part in parts))
        steps[dim] = STILL
        return Span(hull, tuple(steps), because)
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, dim + 1)
    if still:
        steps[dim] = STILL
        if joined.shape[dim + 1] == 1:
            return Span(joined, tuple(steps), because)
        return Span(joined, tuple(steps), because, (dim, tuple(lengths)))
    steps[dim] = STILL
    if joined.shape[dim + 1] > 1 and moves:
        steps[dim] = inferred(joined, dim)
    return Span(joined, tuple(steps), because)
