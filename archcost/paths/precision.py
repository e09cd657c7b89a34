"""The dtype that a path computes in, and its rounding errors."""

from __future__ import annotations

import math

import torch

from archcost.paths.geometry import reduction_length
from archcost.spec import ConvSpec

__all__ = ["FLOATS", "compute_dtype", "roundoff", "stored_error", "sum_error"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float32 for the half types, whose sums would lose the products' digits."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff: half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def stored_error(dtype: torch.dtype) -> float:
    """The rounding error of a result stored in a smaller dtype than it was computed in; else 0."""
    return roundoff(dtype) if compute_dtype(dtype) != dtype else 0.0


def sum_error(spec: ConvSpec, dtype: torch.dtype, factor: float = 1.0, length: int | None = None) -> float:
    """The relative error of plain sums of products, which grows with the square root of their length.

    N. Higham and T. Mary, "A New Approach to Probabilistic Rounding Error Analysis" (2019).

    Args:
        spec: the convolution.
        dtype: of input and weights.
        factor: by which an algorithm amplifies the error.
        length: products in a sum; by default that of the definition.
    """
    growth = 4 + 2 * math.sqrt(reduction_length(spec) if length is None else length)
    return factor * growth * roundoff(compute_dtype(dtype)) + stored_error(dtype)
