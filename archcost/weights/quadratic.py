"""The normal equations of a stage of a chain, and their Cholesky factor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from archcost.merging.compose import Index, windows

Sizes = Sequence[int]
"""A number for each axis."""

_SMALL = 2**21
"""Most elements of a matrix that is formed explicitly."""

__all__ = ["Sizes", "factored", "normal", "windowed"]


def normal(before: Tensor, groups: int, taps: Sizes, step: Sizes, covariance: Tensor | None) -> Tensor:
    """The matrix B C B' of the normal equations; row (m, t) of B is the stage's input m shifted by tap t.

    Args:
        before: (G, M, I, *extent), the stages before this one.
        groups: number of groups of the stage, a multiple of G.
        taps, step: kernel size of the stage, and the distance of its taps.
        covariance: C, (G, D, D) with D = I * pixels of both stages; None is the identity.

    Returns:
        The matrix, (groups, M / groups * taps, M / groups * taps).
    """
    flat = before.reshape(groups, -1, prod(before.shape[2:]))
    rows, count = flat.shape[1], prod(taps)
    pixels = [(t - 1) * s + x for t, s, x in zip(taps, step, before.shape[3:], strict=True)]
    if groups * rows * count * before.shape[2] * prod(pixels) <= _SMALL:
        return _outright(before, groups, rows, taps, step, pixels, covariance)
    out = before.new_zeros(groups, rows, count, rows, count)
    if covariance is None:
        _overlaps(before.reshape(groups, rows, *before.shape[2:]), taps, step, out)
    else:
        _under(before, flat, taps, step, covariance, out)
    return out.reshape(groups, rows * count, rows * count)


def _outright(
    before: Tensor, groups: int, rows: int, taps: Sizes, step: Sizes, pixels: Sizes, covariance: Tensor | None
) -> Tensor:
    """The matrix from an explicit B, which is fastest where B is small."""
    ins, size = before.shape[2], before.shape[3:]
    matrix = before.new_zeros(groups, rows, prod(taps), ins, *pixels)
    parts = before.reshape(groups, rows, ins, *size)
    for tap, (_, there) in enumerate(windows(taps, step, size)):
        matrix[:, :, tap][there] = parts
    wide = matrix.reshape(before.shape[0], -1, ins * prod(pixels))
    seen = wide if covariance is None else wide @ covariance
    split = (groups, rows * prod(taps), -1)
    return seen.reshape(split) @ wide.reshape(split).transpose(1, 2)


def _overlaps(before: Tensor, taps: Sizes, step: Sizes, out: Tensor) -> None:
    """The matrix without a covariance, where only the distance of two taps matters."""
    index = list(product(*map(range, taps)))
    size = before.shape[3:]
    done: dict[tuple[int, ...], Tensor | None] = {}
    for a, one in enumerate(index):
        for b, other in enumerate(index[a:], a):
            apart = tuple((t - u) * s for t, u, s in zip(one, other, step, strict=True))
            if apart not in done:
                done[apart] = _overlap(before, apart, size)
            part = done[apart]
            if part is not None:
                out[:, :, a, :, b] = part
                out[:, :, b, :, a] = part.transpose(1, 2)


def _overlap(before: Tensor, apart: Sizes, size: Sizes) -> Tensor | None:
    if any(abs(d) >= n for d, n in zip(apart, size, strict=True)):
        return None
    here: Index = (Ellipsis, *(slice(max(-d, 0), n - max(d, 0)) for d, n in zip(apart, size, strict=True)))
    there: Index = (Ellipsis, *(slice(max(d, 0), n - max(-d, 0)) for d, n in zip(apart, size, strict=True)))
    return before[here].flatten(2) @ before[there].flatten(2).transpose(1, 2)


def _under(before: Tensor, flat: Tensor, taps: Sizes, step: Sizes, covariance: Tensor, out: Tensor) -> None:
    outer, _, ins, *size = before.shape
    pixels = [(t - 1) * s + x for t, s, x in zip(taps, step, size, strict=True)]
    full = covariance.reshape(outer, ins, *pixels, ins, *pixels)
    width = ins * prod(size)
    seen = [there for _, there in windows(taps, step, size)]
    whole = before.reshape(outer, -1, width)
    for a, one in enumerate(seen):
        begin: Index = (slice(None), slice(None), *one[1:])
        rows = full[begin]
        for b, other in enumerate(seen[a:], a):
            block = rows[other].reshape(outer, width, width)
            part = (whole @ block).reshape(flat.shape) @ flat.transpose(1, 2)
            out[:, :, a, :, b] = part
            out[:, :, b, :, a] = part.transpose(1, 2)


def windowed(covariance: Tensor, shape: Sizes, size: Sizes) -> Tensor:
    """Covariance of a smaller patch, averaged over its places in a patch of ``shape`` (I, *k)."""
    ins, *pixels = shape
    if list(pixels) == list(size):
        return covariance
    full = covariance.reshape(-1, ins, *pixels, ins, *pixels)
    width = ins * prod(size)
    places = [n - x + 1 for n, x in zip(pixels, size, strict=True)]
    total = covariance.new_zeros(len(full), width, width)
    for _, there in windows(places, (1,) * len(size), size):
        both: Index = (slice(None), slice(None), *there[1:], slice(None), *there[1:])
        total += full[both].reshape(total.shape)
    return total / prod(places)


def factored(matrix: Tensor, ridge: float = 1e-10) -> Tensor:
    """Cholesky factor of N + r I, for matrices N (B, d, d); r is ``ridge`` times the mean of N's diagonal.

    Solved for the negative gradient of a squared error, it gives the change that minimises the error plus r
    times its square: the error cannot increase, and directions without data are unchanged.
    """
    size = matrix.diagonal(dim1=1, dim2=2).mean(-1).clamp_min(torch.finfo(matrix.dtype).tiny)
    if matrix.dtype == torch.float32:
        ridge = max(ridge, 1e-6)
    matrix = matrix.clone()
    while True:
        matrix.diagonal(dim1=1, dim2=2).add_((ridge * size)[:, None])
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed.any() or ridge > 1 or not size.isfinite().all():
            return factor
        ridge *= 100
