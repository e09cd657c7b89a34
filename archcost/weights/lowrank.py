"""Low-rank matrices in closed form, for the first kernels of factorisations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["balanced", "leading", "reduced", "root", "truncated", "working_dtype"]

# Smaller sides up to which LAPACK's exact methods are used; above, subspace iteration is much faster.
_SVD_UP_TO = 64
_EIGH_UP_TO = 768
_FLOOR = 1e-6
_LARGE = 2**18


def root(covariance: Tensor) -> Tensor:
    """Cholesky factor L, lower triangular, of the covariance plus a millionth of its mean variance times I.

    The ridge makes L invertible for a singular covariance; for a zero covariance L is the identity.

    Args:
        covariance: (..., d, d), float64.
    """
    size = covariance.shape[-1]
    eye = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    mean = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    covariance = (covariance + covariance.mT) / 2
    scaled = torch.where(mean > 0, covariance / mean.clamp(min=torch.finfo(mean.dtype).tiny), eye)
    ridge = _FLOOR
    while True:
        factor, failed = torch.linalg.cholesky_ex(scaled + ridge * eye)
        if not failed.any():
            return factor * mean.clamp(min=0).sqrt().where(mean > 0, torch.ones_like(mean))
        ridge *= 100


def leading(matrix: Tensor, rank: int, covariance: Tensor | None = None) -> Tensor:
    """Orthonormal U, (..., m, rank), that minimises ||(M - U U^T M) C^(1/2)||.

    Exact, from the singular value decomposition, except for large matrices and small ranks, where a subspace
    iteration comes within a per cent of its error.

    Args:
        matrix: (..., m, n).
        rank: at most m.
        covariance: C, (..., n, n); None is the identity.
    """
    rows, columns = matrix.shape[-2:]
    if rank == rows:
        return torch.eye(rows, dtype=matrix.dtype, device=matrix.device).repeat(*matrix.shape[:-2], 1, 1)
    if covariance is not None:
        return torch.linalg.eigh(matrix @ covariance @ matrix.mT)[1][..., -rank:]
    if rank > columns:
        return torch.linalg.qr(matrix, mode="complete")[0][..., :rank]
    if rows > columns:
        right = leading(matrix.mT, rank)
        return torch.linalg.qr(matrix @ right)[0]
    if rows <= _SVD_UP_TO:
        return torch.linalg.svd(matrix, full_matrices=False)[0][..., :rank]
    if rows <= _EIGH_UP_TO or rank > rows // 2 or matrix.dim() > 3 or len(matrix) > 1:
        return torch.linalg.eigh(matrix @ matrix.mT)[1][..., -rank:]
    return _subspace(matrix, rank)


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (..., m, rank) and (..., rank, n) of the nearest matrix of a rank, as exact as `leading`.

    Args:
        rank: at most min(m, n), where the product is the matrix itself.
    """
    rows, columns = matrix.shape[-2:]
    if rows > columns:
        right = leading(matrix.mT, rank)
        return matrix @ right, right.mT
    left = leading(matrix, rank)
    return left, left.mT @ matrix


def working_dtype(weight: Tensor, informed: bool) -> torch.dtype:
    """The dtype to decompose a weight in: float64; float32, in half the time, for large ones of fewer bits.

    Args:
        informed: whether under a covariance, whose range of magnitudes takes float64.
    """
    quick = not informed and weight.numel() >= _LARGE and weight.dtype != torch.float64
    return torch.float32 if quick else torch.float64


def balanced(second: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the same product, scaled to equal norms of each inner channel on both sides.

    Args:
        second: (..., m, rank).
        first: (..., rank, n).
    """
    ahead, behind = first.norm(dim=-1), second.norm(dim=-2)
    both = (ahead > 0) & (behind > 0)
    scale = torch.where(both, behind.where(both, torch.ones_like(behind)), torch.ones_like(behind))
    scale = (scale / torch.where(both, ahead, torch.ones_like(ahead))).sqrt()
    return second / scale[..., None, :], first * scale[..., :, None]


def _subspace(matrix: Tensor, rank: int) -> Tensor:
    """Approximate leading left singular vectors (Halko, Martinsson and Tropp, SIAM Review 2011, 4.4)."""
    generator = torch.Generator().manual_seed(0)  # the user's random numbers are left alone
    wide = min(rank + rank // 8 + 8, matrix.shape[-2])
    basis = torch.randn(matrix.shape[-1], wide, generator=generator).to(matrix.device)
    rough = (matrix / matrix.abs().max().clamp(min=torch.finfo(matrix.dtype).tiny)).float()
    for _ in range(2):  # directions alone: float32 will do
        basis = rough.mT @ torch.linalg.qr(rough @ basis)[0]
    basis = torch.linalg.qr(matrix @ basis.to(matrix))[0]
    inner = basis.mT @ matrix
    return basis @ torch.linalg.eigh(inner @ inner.mT)[1][..., -rank:]


def reduced(
    matrix: Tensor,
    rank: int,
    through: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Balanced factors (..., m, rank) and (..., rank, n) that lose least: reduced-rank regression.

    Args:
        matrix: M, (..., m, n).
        through: gives ``A C A'`` of a matrix A, for the covariance C of what M multiplies; None: A A'.
    """
    if through is None:
        return balanced(*truncated(matrix, rank))
    gram = through(matrix)
    left = torch.linalg.eigh((gram + gram.mT) / 2)[1][..., -rank:]
    return balanced(left, left.mT @ matrix)
