"""Mean and covariance of rows that come in portions: sums in float64, whatever they are about."""

from __future__ import annotations

import torch

__all__ = ["Sums", "product_of", "widened"]

_EXACT = 256
"""Columns up to which products are in float64 too."""
_BLOCK = 512


class Sums:
    """Of rows (groups, n, D), about the mean of the first portion, so that little cancels."""

    def __init__(self, groups: int, width: int) -> None:
        self.count = 0
        self.total = torch.zeros(groups, width, dtype=torch.float64)
        self.products = torch.zeros(groups, width, width, dtype=torch.float64)
        self.pivot: torch.Tensor | None = None

    def add(self, rows: torch.Tensor) -> None:
        """One portion; half precision is widened."""
        rows = widened(rows)
        if self.pivot is None:
            self.pivot = rows.mean(1, dtype=torch.float64).to(rows.dtype)
        rows = rows - self.pivot[:, None].to(rows.dtype)
        self.count += rows.shape[1]
        self.total += rows.sum(1, dtype=torch.float64)
        product_of(rows, self.products)

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(groups, D) and (groups, D, D); these sums are of no more use then."""
        assert self.pivot is not None
        about = self.total / self.count
        covariance = self.products.div_(self.count)
        covariance -= about[:, :, None] * about[:, None, :]
        return about + self.pivot, covariance


def widened(rows: torch.Tensor) -> torch.Tensor:
    """On the CPU, in float64 where they are or have few columns, else in float32."""
    wide = rows.dtype == torch.float64 or rows.shape[2] <= _EXACT
    return rows.detach().to("cpu", torch.float64 if wide else torch.float32)


def product_of(rows: torch.Tensor, into: torch.Tensor) -> None:
    """Add rows' rows, (groups, D, D), to ``into``, half of it computed and the other half mirrored."""
    width = rows.shape[2]
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        part = rows[:, :, start:stop].transpose(1, 2) @ rows[:, :, start:]
        into[:, start:stop, start:] += part
        into[:, stop:, start:stop] += part[:, :, stop - start :].transpose(1, 2)
