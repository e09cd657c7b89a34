"""Unfolded: a kernel as matrices, and the error of their best low-rank approximations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod

import torch
from torch import Tensor

__all__ = ["IN", "OUT", "TAPS", "Unfolded"]

OUT, IN, TAPS = 1, 2, 3
"""Axes of a kernel: output channels, input channels, and the first spatial axis."""

_LARGE = 2**18
"""Number of values from which a kernel's error is computed in float32."""
_BLOCK = 512
# Shares of the squared norm below which rounding of the Gram matrices hides an error.
_LEAST = {torch.float32: 1e-4, torch.float64: 1e-12}


class Unfolded:
    """A kernel (groups, out, in, *taps), for errors from singular values, computed by Gram matrices.

    Each factorisation is computed once, and gives the errors of all ranks.
    """

    def __init__(self, kernel: Tensor) -> None:
        self.given = kernel
        self._tails: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = {}
        self._bases: dict[int, Tensor] = {}
        self._core: Tensor | None = None

    @cached_property
    def kernel(self) -> Tensor:
        """The kernel on the CPU, in float64; large kernels in float32."""
        return self.given.to("cpu", torch.float32 if self.given.numel() >= _LARGE else torch.float64)

    @cached_property
    def total(self) -> float:
        """Squared Frobenius norm of the kernel."""
        return float(self.kernel.square().sum(dtype=torch.float64))

    def error(self, lost: float) -> float | None:
        """|| W - W' || / || W || from || W - W' ||^2; None where rounding hides it."""
        if lost <= _LEAST[self.kernel.dtype] * self.total:
            return None
        return float((lost / self.total) ** 0.5)

    def lost(self, rank: int, rows: Sequence[int], apart: Sequence[int] = ()) -> float:
        """|| W - W' ||^2 for the best matrices of a rank (Eckart and Young, 1936).

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
        """|| W - W' ||^2 for the truncated higher-order SVD (De Lathauwer et al. 2000), an upper bound of
        Tucker-2.

        Args:
            front, back: numbers of leading directions of the inputs and the outputs.
        """
        if self._core is None:
            turned = torch.einsum("goi...,goa->gai...", self.kernel, self._basis(OUT))
            turned = torch.einsum("gai...,gib->gab...", turned, self._basis(IN))
            # Leading directions are last.
            size = turned.square().flatten(3).sum(-1, dtype=torch.float64).sum(0).flip(0, 1)
            self._core = size.cumsum(0).cumsum(1)
        return max(self.total - float(self._core[back - 1, front - 1]), 0.0)

    def _basis(self, axis: int) -> Tensor:
        """Singular vectors (groups, d, d) of the matrix with an axis as its rows, the leading last."""
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
    """Gram matrix M M' of matrices (..., m, n); only the lower triangle for large ones."""
    size = matrix.shape[-2]
    if size <= 2 * _BLOCK:
        return matrix @ matrix.mT
    gram = matrix.new_zeros(len(matrix), size, size)
    for start in range(0, size, _BLOCK):
        end = start + _BLOCK
        gram[:, start:end, :end] = matrix[:, start:end] @ matrix[:, :end].mT
    return gram


def _upright(matrix: Tensor) -> Tensor:
    """The matrix or its transpose, whichever has fewer rows; singular values are the same."""
    return matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix


def _tails(values: Tensor) -> Tensor:
    """Sums of the smallest 0, 1, 2 ... squared singular values, given in ascending order."""
    sums = values.double().clamp(min=0).cumsum(-1)
    return torch.cat([torch.zeros_like(sums[..., :1]), sums], -1)
