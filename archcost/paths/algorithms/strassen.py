"""im2col with a product by Strassen: seven products of half-sized matrices in place of eight.

Strassen's first form needs 18 additions a level; this is Winograd's, with 15. Each level cuts all three
sizes in half, so that n levels take (7/8)^n of the multiplications: the exponent is log2(7) = 2.807 in place
of 3. The additions, and the memory they move, are the price.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from archcost.errors import InputError
from archcost.paths.algorithms.im2col import Im2colPath, matrix_elements
from archcost.paths.geometry import full_size, padded_elements
from archcost.paths.precision import sum_error
from archcost.spec import ConvSpec

__all__ = ["CUTOVER", "StrassenPath", "strassen_matmul"]

# The smallest size of a product that one more level is taken for; benchmarks/strassen.py measures it. On one
# thread of a server processor a level of 4096 took as long as MKL's product, one of 2048 1.17 times as long.
CUTOVER = 4096


def strassen_matmul(a: Tensor, b: Tensor, levels: int = 1) -> Tensor:
    """``a @ b`` by ``levels`` levels of Strassen's products: (..., m, k) by (..., k, n).

    Sizes that 2 ** levels does not divide are filled with zeros. V. Strassen, "Gaussian Elimination is not
    Optimal" (1969); the form with 15 additions is S. Winograd's (1971).

    >>> a, b = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(3, 4)
    >>> torch.equal(strassen_matmul(a, b), a @ b)
    True

    Raises:
        InputError: the sizes do not fit, or ``levels`` is negative.
    """
    if levels < 0:
        raise InputError(f"strassen_matmul: levels={levels} is negative")
    if min(a.dim(), b.dim()) < 2 or a.shape[-1] != b.shape[-2]:
        raise InputError(
            f"strassen_matmul: {tuple(a.shape)} by {tuple(b.shape)}: expected (..., m, k) by (..., k, n)"
        )
    # The sevens go in front of the batch, so both batches need the same number of dimensions.
    left = a[(None,) * (b.dim() - a.dim())] if b.dim() > a.dim() else a
    right = b[(None,) * (a.dim() - b.dim())] if a.dim() > b.dim() else b
    product = joined(left_operands(left, levels) @ right_operands(right, levels), levels)
    return product[..., : a.shape[-2], : b.shape[-1]]


def left_operands(a: Tensor, levels: int) -> Tensor:
    """The left operands: (..., m, k) to (7, ..., 7, ..., m / 2^levels, k / 2^levels)."""
    a = filled(a, 2**levels)
    for _ in range(levels):
        a11, a12, a21, a22 = quarters(a)
        s1 = a21 + a22
        s2 = s1 - a11
        a = torch.stack([a11, a12, a12 - s2, a22, s1, s2, a11 - a21])
    return a


def right_operands(b: Tensor, levels: int) -> Tensor:
    """The right operands: (..., k, n) to (7, ..., 7, ..., k / 2^levels, n / 2^levels), in the same order."""
    b = filled(b, 2**levels)
    for _ in range(levels):
        b11, b12, b21, b22 = quarters(b)
        t1 = b12 - b11
        t2 = b22 - t1
        b = torch.stack([b11, b21, b22, t2 - b21, t1, t2, b22 - b12])
    return b


def joined(products: Tensor, levels: int) -> Tensor:
    """The seven products of each level put together, the innermost level first."""
    for _ in range(levels):
        p1, p2, p3, p4, p5, p6, p7 = products
        u2 = p1 + p6
        u3 = u2 + p7
        top = torch.cat([p1 + p2, u2 + p5 + p3], dim=-1)
        products = torch.cat([top, torch.cat([u3 - p4, u3 + p5], dim=-1)], dim=-2)
    return products


def quarters(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top left, top right, bottom left, bottom right."""
    top, bottom = a.chunk(2, dim=-2)
    (a11, a12), (a21, a22) = top.chunk(2, dim=-1), bottom.chunk(2, dim=-1)
    return a11, a12, a21, a22


def filled(a: Tensor, multiple: int) -> Tensor:
    """Zeros on the right and at the bottom, up to the next multiple."""
    rows, columns = a.shape[-2:]
    missing = (0, -columns % multiple, 0, -rows % multiple)
    return F.pad(a, missing) if any(missing) else a


class StrassenPath(Im2colPath):
    """im2col with its product by levels of Strassen's algorithm; None: as many levels as pay off.

    A level pays off where the smallest of the product's three sizes is at least ``cutover``.
    """

    source = "V. Strassen, Gaussian Elimination is not Optimal, 1969; J. Cong and B. Xiao, 2014"

    def __init__(self, levels: int | None = None, cutover: int = CUTOVER) -> None:
        self.levels, self.cutover = levels, cutover
        self.name = "strassen" if levels is None else f"strassen-{levels}"
        if levels is None:
            self.idea = (
                f"im2col with Strassen's seven products for eight while every size is {cutover} or more"
            )
        else:
            self.idea = (
                f"im2col with {levels} level{'s' * (levels > 1)} of Strassen's seven products for eight"
            )

    def _matrix(self, weight: Tensor, spec: ConvSpec) -> Tensor:
        # Every operand is (7, ..., 7, batch, groups, rows, columns): the weights serve the whole batch.
        return left_operands(super()._matrix(weight, spec).unsqueeze(0), self.levels_of(spec))

    def _product(self, weight: Tensor, columns: Tensor, spec: ConvSpec) -> Tensor:
        levels = self.levels_of(spec)
        product = joined(weight @ right_operands(columns, levels), levels)
        return product[..., : product_sizes(spec)[0], : columns.shape[-1]]

    def levels_of(self, spec: ConvSpec) -> int:
        """The number of levels for the product of this convolution."""
        if self.levels is not None:
            return self.levels
        smallest, levels = min(product_sizes(spec)), 0
        while smallest >> levels >= max(2, self.cutover):
            levels += 1
        return levels

    def multiplications(self, spec: ConvSpec) -> int:
        """7 ** levels products of sizes divided by 2 ** levels, rounded up."""
        levels = self.levels_of(spec)
        parts: int = 2**levels
        rows, inner, columns = (-(-size // parts) for size in product_sizes(spec))
        products: int = 7**levels
        return spec.batch * spec.groups * products * rows * inner * columns

    def workspace_bytes(self, spec: ConvSpec, itemsize: int = 4) -> int:
        """The padded input, the matrix, and (7/4) ** levels times each of the three matrices, those of the
        data twice while they are put together."""
        levels = self.levels_of(spec)
        if levels == 0:
            return super().workspace_bytes(spec, itemsize)
        parts: int = 2**levels
        rows, inner, columns = (-(-size // parts) for size in product_sizes(spec))
        each: int = spec.groups * 7**levels
        operands = each * rows * inner + 2 * spec.batch * each * (inner + rows) * columns
        full = spec.batch * spec.out_channels * prod(full_size(spec)) if spec.transposed else 0
        return itemsize * (padded_elements(spec) + 2 * matrix_elements(spec) + operands + full)

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        """Each level adds operands of up to four quarters: the error grows by about two a level."""
        return sum_error(spec, dtype, factor=3 ** self.levels_of(spec))


def product_sizes(spec: ConvSpec) -> tuple[int, int, int]:
    """Rows, inner size and columns of the product of one image and one group."""
    taps = prod(spec.kernel_size)
    inputs, outputs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    if spec.transposed:
        return outputs * taps, inputs, prod(spec.input_size)
    return outputs, inputs * taps, prod(spec.output_size)


PATHS = (StrassenPath(), *(StrassenPath(levels) for levels in (1, 2, 3)))
ORDER = 60
