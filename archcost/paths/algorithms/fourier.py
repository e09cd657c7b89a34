"""Helpers of the Fourier paths: lengths of transforms, and their multiplications."""

from __future__ import annotations

from functools import lru_cache
from math import log2, prod

from archcost.paths.geometry import Axes

__all__ = ["MOST_LENGTH", "good_length", "real_transform_multiplications", "transformed"]

# The longest transform of the compiled kernels.
MOST_LENGTH = 512


@lru_cache(maxsize=4096)
def good_length(n: int) -> int:
    """The next even length of at least 4 whose half has no prime factor above 5.

    Transforms of these are fast, and up to MOST_LENGTH the compiled kernels have the same ones.
    """
    n = max(4, n + n % 2)
    while True:
        rest = n // 2
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


def real_transform_multiplications(lengths: Axes) -> int:
    """Multiplications of a real transform: real along the last axis, complex along the others.

    By split radix, N (log2 N - 3) + 4 for N complex numbers and half of it for real ones (P. Duhamel and
    H. Hollmann, "Split radix FFT algorithm", 1984); for other lengths than powers of two the same formula
    is an estimate.
    """
    axes = transformed(lengths)
    if not axes:
        return 0
    *others, last = (lengths[a] for a in axes)
    total = prod(others) * _split_radix(last) / 2
    kept = last // 2 + 1
    for axis, n in enumerate(others):
        total += prod(others[:axis] + others[axis + 1 :]) * kept * _split_radix(n)
    return round(total)


def _split_radix(n: int) -> float:
    return max(0.0, n * (log2(n) - 3) + 4)


def transformed(lengths: Axes) -> list[int]:
    """The axes that are transformed; the last of them by a real transform."""
    return [axis for axis, n in enumerate(lengths) if n > 1]
