"""The matrices of F(m, r): m outputs of a correlation with r taps by m + r - 1 multiplications, exactly.

Toom and Cook multiply polynomials by their values at m + r - 2 points and at infinity; transposed, the same
matrices correlate (S. Winograd, "Arithmetic Complexity of Computations", 1980; A. Lavin and S. Gray, "Fast
Algorithms for Convolutional Neural Networks", 2015):

    y = A^T [ (G g) * (B^T d) ]         d: m + r - 1 pixels, g: r taps, y: m outputs

Everything here is rational, so that the identity holds exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from archcost.errors import InputError

__all__ = ["POINTS", "Matrix", "ToomCook", "toom_cook"]

# Small numerators and denominators, and pairs p, -1/p whose powers grow and shrink against each other.
# F(6, 5) in two dimensions has an error of 2e-3 with 4 and -4 in the last two places that it uses, and of
# 1e-4 with 3/4 and -4/3. On points: B. Barabasz et al., "Error Analysis and Improving the Accuracy of
# Winograd Convolution for Deep Neural Networks" (2020).
POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-1/2", "-2", "1/2", "3/4", "-4/3", "4", "-1/4")))

Matrix = tuple[tuple[Fraction, ...], ...]


class ToomCook(NamedTuple):
    """The three matrices, named for what they transform."""

    output: Matrix
    """A^T: m x (m + r - 1)."""
    kernel: Matrix
    """G: (m + r - 1) x r."""
    input: Matrix
    """B^T: (m + r - 1) x (m + r - 1)."""

    @property
    def amplification(self) -> float:
        """The error of the worst output relative to that of a plain sum: 1 is as good.

        With pixels and taps of variance 1, product j has the standard deviation |B_j| |G_j| and reaches
        output i times A_ij. In several dimensions the factors of the axes multiply.
        """
        scale = [_square(b) * _square(g) for b, g in zip(self.input, self.kernel, strict=True)]
        worst = max(sum(float(a) ** 2 * s for a, s in zip(row, scale, strict=True)) for row in self.output)
        return math.sqrt(worst / len(self.kernel[0]))


def _square(row: Sequence[Fraction]) -> float:
    return float(sum(value * value for value in row))


@lru_cache(maxsize=64)
def toom_cook(m: int, r: int, points: tuple[Fraction, ...] = POINTS) -> ToomCook:
    """F(m, r), at the first m + r - 2 of the points and at infinity.

    >>> for row in toom_cook(2, 3).input:
    ...     print(*map(str, row))
    1 0 -1 0
    0 1 1 0
    0 -1 1 0
    0 -1 0 1

    Raises:
        InputError: m or r is below 1, there are too few points, or one of them appears twice.
    """
    if min(m, r) < 1:
        raise InputError(f"toom_cook: F({m}, {r}) needs at least one output and one tap")
    finite = m + r - 2
    used = points[:finite]
    if len(used) < finite or len(set(used)) < finite:
        raise InputError(f"toom_cook: F({m}, {r}) needs {finite} different points, got {len(set(used))}")
    output = [[p**i for p in used] + [Fraction(i == m - 1)] for i in range(m)]
    kernel = [[p**j for j in range(r)] for p in used] + [[Fraction(j == r - 1) for j in range(r)]]
    interpolation = []
    for i, p in enumerate(used):
        others = used[:i] + used[i + 1 :]
        factor = math.prod((p - q for q in others), start=Fraction(1))
        # The sign goes to the pixels' side, as in Lavin and Gray: the taps' powers are divided by |factor|.
        interpolation.append([c * (1 if factor > 0 else -1) for c in _monic(others)] + [Fraction(0)])
        kernel[i] = [value / abs(factor) for value in kernel[i]]
    interpolation.append(_monic(used))
    return ToomCook(*(tuple(map(tuple, matrix)) for matrix in (output, kernel, interpolation)))


def _monic(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of all (x - root), the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        raised, kept = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [high - root * low for high, low in zip(raised, kept, strict=True)]
    return coefficients
