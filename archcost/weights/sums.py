"""Running mean and covariance of rows that come in portions, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Sums", "product_of", "widened"]

_EXACT = 256
"""Number of columns up to which products are in float64 too."""
_BLOCK = 512


class Sums:
    """Sums over rows (groups, n, D) about the mean of the first portion, against cancellation, or about
    zero."""

    def __init__(self, groups: int, width: int, centred: bool = True) -> None:
        self.count, self.centred = 0, centred
        self.total = torch.zeros(groups, width, dtype=torch.float64)
        self.products = torch.zeros(groups, width, width, dtype=torch.float64)
        self.pivot: Tensor | None = None

    def add(self, rows: Tensor) -> Tensor:
        """Add a portion, widened from half precision, and return it as it was added."""
        rows = widened(rows)
        if self.pivot is None:
            mean = rows.mean(1, dtype=torch.float64)
            self.pivot = (mean if self.centred else torch.zeros_like(mean)).to(rows.dtype)
        rows = rows - self.pivot[:, None].to(rows.dtype)
        self.count += rows.shape[1]
        self.total += rows.sum(1, dtype=torch.float64)
        product_of(rows, self.products)
        return rows

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean (groups, D) and covariance (groups, D, D), which overwrites the sums."""
        assert self.pivot is not None
        about = self.total / self.count
        covariance = self.products.div_(self.count)
        covariance -= about[:, :, None] * about[:, None, :]
        return about + self.pivot, covariance


def widened(rows: Tensor) -> Tensor:
    """Rows on the CPU, in float64 where they are or have few columns, else in float32."""
    wide = rows.dtype == torch.float64 or rows.shape[2] <= _EXACT
    return rows.detach().to("cpu", torch.float64 if wide else torch.float32)


def product_of(rows: Tensor, into: Tensor) -> None:
    """Add the Gram matrix of rows, (groups, D, D), to ``into``; half is computed, the rest mirrored."""
    width = rows.shape[2]
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        part = rows[:, :, start:stop].transpose(1, 2) @ rows[:, :, start:]
        into[:, start:stop, start:] += part
        into[:, stop:, start:stop] += part[:, :, stop - start :].transpose(1, 2)
