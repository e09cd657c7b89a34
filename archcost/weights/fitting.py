"""Ridge regression from input patches to the error of an output, accumulated in portions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from archcost.weights.sums import Sums, widened

__all__ = ["Correction", "Normal"]

_FEW = 2
"""Rows are few where their number is at most their width over this."""


@dataclass(frozen=True, eq=False)
class Correction:
    """A change of a layer's weight and bias."""

    weight: Tensor | None
    """Change of the weight, (groups, out / groups, D); None: none."""
    bias: Tensor | None
    """Change of the bias, (out,); None: none."""


class Normal:
    """The normal equations of a layer for its patches z and missing output e, in float64.

    As sums over rows or, where there are few rows for their width, over the rows themselves.
    """

    def __init__(self, weights: bool, bias: bool) -> None:
        self.weights, self.bias = weights, bias
        self.sums: Sums | None = None
        self._few: list[tuple[Tensor, Tensor]] = []
        """All rows so far, as long as they are few."""
        self._lacks = torch.zeros((), dtype=torch.float64)
        self._aside: list[tuple[Tensor, Tensor, Tensor]] = []
        self.count = 0
        """Number of rows to fit on."""

    def add(self, rows: Tensor, lacks: Tensor) -> None:
        """Add a portion to fit on: patches (groups, n, D) and missing outputs (n, out)."""
        if not len(lacks):
            return
        rows = widened(rows)
        lacks = lacks.detach().to("cpu", rows.dtype)
        self.count += len(lacks)
        self._lacks = self._lacks + lacks.sum(0, dtype=torch.float64)
        self._few.append((rows, lacks))
        if self.sums is not None or self.count > rows.shape[2] // _FEW:
            for portion in self._few:
                self._sum(*portion)
            self._few.clear()

    def _sum(self, rows: Tensor, lacks: Tensor) -> None:
        groups, _, width = rows.shape
        if self.sums is None:
            self.sums = Sums(groups, width, centred=self.bias)
            self._crossed = torch.zeros(groups, lacks.shape[1] // groups, width, dtype=torch.float64)
        rows = self.sums.add(rows)
        self._crossed += lacks.reshape(len(lacks), groups, -1).permute(1, 2, 0) @ rows

    def keep(self, rows: Tensor, was: Tensor, now: Tensor) -> None:
        """Add held-out data: patches (groups, n, D), the original and the present output (n, out)."""
        rows = widened(rows)
        self._aside.append((rows, was.detach().to("cpu", rows.dtype), now.detach().to("cpu", rows.dtype)))

    def fit(self, ridge: float) -> Correction:
        """The change of weight and bias by ridge regression: least squares plus ``ridge`` times its square.

        A. Hoerl and R. Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems"
        (Technometrics 12, 1970). The penalty is on the change, so that directions without data stay as they
        are; the bias is not penalised.

        Args:
            ridge: as a share of the mean of the diagonal of z z'.

        Returns:
            The change; none where the normal equations cannot be solved.
        """
        weight, mean = self._from_rows(ridge) if self.sums is None else self._from_sums(self.sums, ridge)
        if weight is None or not self.bias:
            return Correction(weight, None)
        return Correction(weight, self._lacks / self.count - (weight @ mean[:, :, None]).flatten())

    def _from_sums(self, sums: Sums, ridge: float) -> tuple[Tensor | None, Tensor]:
        """The change of the weight, and the mean of the rows."""
        assert sums.pivot is not None
        matrix, crossed = sums.products / self.count, self._crossed / self.count
        rows, lacks = sums.total / self.count, self._lacks / self.count
        groups = len(matrix)
        if self.bias:
            matrix -= rows[:, :, None] * rows[:, None, :]
            crossed = crossed - lacks.reshape(groups, -1, 1) * rows[:, None, :]
        size = matrix.diagonal(dim1=1, dim2=2).mean(-1)
        solved = _solved(matrix, size, ridge, crossed.transpose(1, 2))
        return None if solved is None else solved.transpose(1, 2), rows + sums.pivot

    def _from_rows(self, ridge: float) -> tuple[Tensor | None, Tensor]:
        """The same by the Gram matrix of the rows: (z'z + r)^-1 z' = z' (z z' + r)^-1."""
        rows = torch.cat([one for one, _ in self._few], 1).double()
        lacks = torch.cat([one for _, one in self._few]).double()
        mean = rows.mean(1)
        if self.bias:
            rows, lacks = rows - mean[:, None], lacks - lacks.mean(0)
        groups, count, width = rows.shape
        matrix = rows @ rows.transpose(1, 2) / count
        size = matrix.diagonal(dim1=1, dim2=2).sum(-1) / width
        solved = _solved(matrix, size, ridge, lacks.reshape(count, groups, -1).transpose(0, 1) / count)
        return None if solved is None else solved.transpose(1, 2) @ rows, mean

    def shift(self) -> Correction:
        """The change of the bias alone, by the mean error."""
        return Correction(None, self._lacks / self.count)

    def error(self, fit: Correction | None) -> float:
        """||new - original|| / ||original|| of the output on held-out data."""
        left = size = 0.0
        for rows, was, now in self._aside:
            new = now.double()
            if fit is not None and fit.weight is not None:
                gain = rows @ fit.weight.to(rows.dtype).transpose(1, 2)  # (groups, n, out / groups)
                new = new + gain.transpose(0, 1).reshape(new.shape)
            if fit is not None and fit.bias is not None:
                new = new + fit.bias
            left += float((new - was).square().sum())
            size += float(was.double().square().sum())
        return (left / size) ** 0.5 if size else float(left > 0)


def _solved(matrix: Tensor, size: Tensor, ridge: float, right: Tensor) -> Tensor | None:
    """(matrix + ridge * size)^-1 @ right for each group, with more where that is not positive; None where
    nothing helps. Overwrites the matrix."""
    size = torch.where(size > 0, size, torch.ones_like(size))
    failed = torch.ones(1)
    while failed.any():
        if not ridge < 1e6:
            return None
        matrix.diagonal(dim1=1, dim2=2).add_((ridge * size)[:, None])
        factor, failed = torch.linalg.cholesky_ex(matrix)
        ridge = max(ridge, 1e-12) * 10
    return torch.cholesky_solve(right, factor)
