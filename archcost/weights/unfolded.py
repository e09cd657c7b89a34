"""Unfolded: one kernel as matrices, and what the nearest ones of a rank lose of it. Each is factored once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod

import torch
from torch import Tensor

__all__ = ["IN", "OUT", "TAPS", "Unfolded"]

OUT, IN, TAPS = 1, 2, 3
"""Axes of a kernel: output channels, input channels, and the first of its axes of space."""

_LARGE = 2**18
"""Values of a kernel from which float32 does for its error."""
_BLOCK = 512
# Sums of squares below these parts of the whole are lost in the rounding of its Gram matrices.
_LEAST = {torch.float32: 1e-4, torch.float64: 1e-12}


class Unfolded:
    """A kernel (groups, out, in, *taps), for errors alone: singular values by way of Gram matrices.

    What one factorisation says holds for all ranks, so that one serves all ratios that are asked for.
    """

    def __init__(self, kernel: Tensor) -> None:
        self.given = kernel
        self._tails: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = {}
        self._bases: dict[int, Tensor] = {}
        self._core: Tensor | None = None

    @cached_property
    def kernel(self) -> Tensor:
        """On the CPU, in float64; large ones in float32."""
        return self.given.to("cpu", torch.float32 if self.given.numel() >= _LARGE else torch.float64)

    @cached_property
    def total(self) -> float:
        """Its squared norm."""
        return float(self.kernel.square().sum(dtype=torch.float64))

    def error(self, lost: float) -> float | None:
        """|| W - W' || / || W || for a squared norm that is lost; None where rounding hides it."""
        if lost <= _LEAST[self.kernel.dtype] * self.total:
            return None
        return (lost / self.total) ** 0.5

    def lost(self, rank: int, rows: Sequence[int], apart: Sequence[int] = ()) -> float:
        """The squared norm that the nearest matrices of a rank lose (Eckart and Young, 1936).

        Args:
            rows: the axes that count as rows of the matrix; all others are columns.
            apart: axes that have a matrix for each index, as groups do.
        """
        key = tuple(rows), tuple(apart)
        if key not in self._tails:
            self._tails[key] = _tails(torch.linalg.eigvalsh(_gram(_upright(self._matrices(*key)))))
        tails = self._tails[key]
        return float(tails[..., max(tails.shape[-1] - 1 - rank, 0)].sum())

    def lost_between(self, front: int, back: int) -> float:
        """The squared norm outside the leading directions of the inputs, ``front``, and outputs, ``back``.

        The truncated higher-order SVD (De Lathauwer et al. 2000), no less than Tucker-2 loses.
        """
        if self._core is None:
            turned = torch.einsum("goi...,goa->gai...", self.kernel, self._basis(OUT))
            turned = torch.einsum("gai...,gib->gab...", turned, self._basis(IN))
            # Leading directions are last.
            size = turned.square().flatten(3).sum(-1, dtype=torch.float64).sum(0).flip(0, 1)
            self._core = size.cumsum(0).cumsum(1)
        return max(self.total - float(self._core[back - 1, front - 1]), 0.0)

    def _basis(self, axis: int) -> Tensor:
        """(groups, d, d): the singular vectors of the matrix with one axis as its rows, the leading last."""
        if axis not in self._bases:
            values, self._bases[axis] = torch.linalg.eigh(_gram(self._matrices((axis,))))
            self._tails[(axis,), ()] = _tails(values)
        return self._bases[axis]

    def _matrices(self, rows: tuple[int, ...], apart: tuple[int, ...] = ()) -> Tensor:
        shape = self.kernel.shape
        columns = [axis for axis in range(1, len(shape)) if axis not in rows + apart]
        order = (0, *apart, *rows, *columns)
        high, wide = (prod(shape[axis] for axis in axes) for axes in (rows, columns))
        return self.kernel.permute(order).reshape(-1, high, wide)


def _gram(matrix: Tensor) -> Tensor:
    """M M' of matrices (..., m, n): above the diagonal of large ones is nothing, and nobody reads it."""
    size = matrix.shape[-2]
    if size <= 2 * _BLOCK:
        return matrix @ matrix.mT
    gram = matrix.new_zeros(len(matrix), size, size)
    for start in range(0, size, _BLOCK):
        end = start + _BLOCK
        gram[:, start:end, :end] = matrix[:, start:end] @ matrix[:, :end].mT
    return gram


def _upright(matrix: Tensor) -> Tensor:
    """Or its transpose, which has the same singular values, where that has fewer rows."""
    return matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix


def _tails(values: Tensor) -> Tensor:
    """Sums of the smallest 0, 1, 2 ... of squared singular values, which come in rising order."""
    sums = values.double().clamp(min=0).cumsum(-1)
    return torch.cat([torch.zeros_like(sums[..., :1]), sums], -1)
