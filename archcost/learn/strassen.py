"""learn.strassen: the matrix product of a convolution by seven products in place of eight, stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from archcost.learn.given import Array, given
from archcost.learn.im2col import columns_of, folded
from archcost.learn.stages import Stage, matrix, planes
from archcost.learn.steps import Steps
from archcost.report.units import count_text, shape_text

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["strassen"]

# V. Strassen, "Gaussian Elimination is not Optimal", 1969: the coefficients of A11, A12, A21, A22 and of B11,
# B12, B21, B22 in each product, and of the products in C11, C12, C21, C22.
_LEFT = ((1, 0, 0, 1), (0, 0, 1, 1), (1, 0, 0, 0), (0, 0, 0, 1), (1, 1, 0, 0), (-1, 0, 1, 0), (0, 1, 0, -1))
_RIGHT = ((1, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, -1), (-1, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0), (0, 0, 1, 1))
_TOGETHER = ((1, 0, 0, 1, -1, 0, 1), (0, 0, 1, 0, 1, 0, 0), (0, 1, 0, 1, 0, 0, 0), (1, -1, 1, 0, 0, 1, 0))
_QUARTERS = ("11", "12", "21", "22")


def strassen(
    x: ArrayLike | Tensor, w: ArrayLike | Tensor, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Steps:
    """Show the product of filters and im2col columns by Strassen's algorithm (1969), one level of it.

    A 1x1 convolution is a product of matrices and nothing else: w of (n, k, 1, 1) times x of (k, m, 1).

    Args:
        x: as in `archcost.learn.im2col`.
        w: as in `archcost.learn.im2col`.
        stride: for all axes; so are padding, of zeros, and dilation.
        padding: zeros on every side.
        dilation: the distance of the taps.

    Returns:
        The stages; their ``output`` is that of ``torch.nn.functional.conv2d``, in float64.

    Raises:
        InputError: x and w do not fit each other, or are too large to be read.
    """
    case = given("strassen", x, w, stride, padding, dilation)
    rows, columns = case.w.reshape(len(case.w), -1), columns_of(case)
    left, right = _even(rows), _even(columns)
    a, b = _quarters(left), _quarters(right)
    sums = [(_sum(one, a), _sum(two, b)) for one, two in zip(_LEFT, _RIGHT, strict=True)]
    products = [one @ two for one, two in sums]
    c = [_sum(line, products) for line in _TOGETHER]
    whole = np.block([[c[0], c[1]], [c[2], c[3]]])
    product = whole[: len(rows), : columns.shape[1]]
    y = folded(case, product)
    names = [f"{_factor(one, 'A')} {_factor(two, 'B')}" for one, two in zip(_LEFT, _RIGHT, strict=True)]
    padded = left.size - rows.size + right.size - columns.size
    used, counted = 7 * left.size * right.shape[1] // 8, case.spec.macs
    stages = (
        Stage("Input and filters", "a convolution, to be made one matrix product", case.panels),
        Stage(
            "One matrix product",
            f"filters as rows, A, {shape_text(left.shape)}; windows as columns, B, {shape_text(right.shape)}"
            + f"; {padded} zeros make all sides even" * (padded > 0),
            (matrix("A", left), matrix("B", right)),
        ),
        Stage(
            "Quarters",
            "by the definition, C11 = A11 B11 + A12 B21 and so on: eight products of quarters",
            (
                *(matrix(f"A{q}", one) for q, one in zip(_QUARTERS, a, strict=True)),
                *(matrix(f"B{q}", one) for q, one in zip(_QUARTERS, b, strict=True)),
            ),
        ),
        Stage(
            "Seven pairs of sums",
            "additions are cheap where quarters are large: they grow with the square of the side",
            tuple(
                matrix(_said(line, letter), pair[side])
                for pair, one, two in zip(sums, _LEFT, _RIGHT, strict=True)
                for side, line, letter in ((0, one, "A"), (1, two, "B"))
                if sum(map(abs, line)) > 1
            ),
        ),
        Stage(
            "Seven products",
            "in place of eight; each is a matrix product again, so that log2 7 = 2.807 replaces the 3 of n^3",
            tuple(
                matrix(f"M{at} = {name}", one)
                for at, (name, one) in enumerate(zip(names, products, strict=True), 1)
            ),
        ),
        Stage(
            "Put together",
            "sums of products, quarter by quarter",
            tuple(
                matrix(f"C{q} = {_sum_said(line)}", one)
                for q, line, one in zip(_QUARTERS, _TOGETHER, c, strict=True)
            ),
        ),
        Stage("Back to a feature map", "as for im2col", planes("y", y, "image", "channel")),
    )
    more = "fewer" if used < counted else "no fewer, for the zeros that make the sides even count"
    count = f"{count_text(used)} multiplications, {more}; {count_text(counted)} by the definition"
    return Steps("strassen", case.text, stages, count, case.output(y))


def _even(values: Array) -> Array:
    """The matrix with a row and a column of zeros where its sides are odd."""
    return np.pad(values, [(0, n % 2) for n in values.shape])


def _quarters(values: Array) -> list[Array]:
    rows, columns = (n // 2 for n in values.shape)
    return [
        values[:rows, :columns],
        values[:rows, columns:],
        values[rows:, :columns],
        values[rows:, columns:],
    ]


def _sum(factors: tuple[int, ...], parts: list[Array]) -> Array:
    return np.sum([factor * part for factor, part in zip(factors, parts, strict=True)], axis=0)  # type: ignore[no-any-return]


def _said(factors: tuple[int, ...], letter: str) -> str:
    """A sum of quarters: ``A11 + A22``."""
    return _joined([(factor, f"{letter}{q}") for factor, q in zip(factors, _QUARTERS, strict=True)])


def _factor(factors: tuple[int, ...], letter: str) -> str:
    said = _said(factors, letter)
    return f"({said})" if " " in said else said


def _sum_said(factors: tuple[int, ...]) -> str:
    return _joined([(factor, f"M{at}") for at, factor in enumerate(factors, 1)])


def _joined(terms: list[tuple[int, str]]) -> str:
    terms = sorted((term for term in terms if term[0]), key=lambda term: term[0] < 0)
    return "".join(f" {'-' if factor < 0 else '+'} {name}" for factor, name in terms)[3:]
