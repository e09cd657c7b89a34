"""Winograd's minimal filtering: m outputs an axis by m + r - 1 multiplications in place of m * r.

Overlapping tiles of m + r - 1 pixels an axis are transformed, multiplied at each of their points with the
transformed taps (a matrix product over channels), and transformed back into m outputs. In two dimensions
F(2x2, 3x3) takes 16 multiplications for 4 outputs, 2.25 times fewer than 36; F(4x4, 3x3) 4 times fewer. What
is saved is paid for by larger weights, by the transforms, and by precision: the larger m + r, the further
apart are the numbers that are added (see `ToomCook.amplification`).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from archcost.paths.algorithms.space_to_depth import spread
from archcost.paths.algorithms.tiling import TiledPath, along_axes, point_products, tiled, untiled
from archcost.paths.algorithms.toom_cook import POINTS, Matrix, ToomCook, toom_cook
from archcost.paths.compiled import GROUPED, Kernel, winograd_kernel, winograd_taps
from archcost.paths.geometry import Axes
from archcost.paths.phases import Dense, phases
from archcost.paths.precision import sum_error
from archcost.spec import ConvSpec

__all__ = ["WinogradPath"]

# Most multiplications of a single convolution in place of phases, relative to those of the phases.
MOST_ZEROS = 1.3


class WinogradPath(TiledPath):
    """F(m, r) along each axis that has r > 1 taps."""

    limits = (
        "1 to 3 axes, groups, every padding mode; dilation and transposed by phases, stride by phases or by "
        "space to depth; not 1x1, and at most 12 pixels a tile and axis"
    )
    source = "A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2015"

    def __init__(self, m: int) -> None:
        self.m = m
        self.name = f"winograd-{m}"
        self.idea = f"Winograd: {m} outputs an axis at a time by {m} + taps - 1 multiplications"

    def _refuses(self, spec: ConvSpec) -> str | None:
        longest = self._longest(spec)
        if longest == 1:
            parts = " once stride has parted it" if max(spec.kernel_size) > 1 else ""
            return f"a kernel of one tap{parts} leaves no multiplication to save"
        if not self._fits(longest):
            return (
                f"F({self.m}, {longest}) has tiles of {self.m + longest - 1} pixels: beyond "
                f"{len(POINTS) + 1} the numbers are too far apart to be exact"
            )
        return None

    def _executed(self, spec: ConvSpec) -> ConvSpec:
        """Space to depth for a stride, where the zeros among its taps cost less than many calls."""
        instead = spread(spec)
        if instead is None or max(instead.kernel_size) == 1:
            return spec
        if self._all_multiplications(instead) > MOST_ZEROS * self._all_multiplications(spec):
            return spec
        return instead

    def _fits(self, taps: int) -> bool:
        return self.m + taps - 2 <= len(POINTS)

    def _kernel(self, dense: Dense) -> Kernel | None:
        return winograd_kernel(dense, self.outputs(dense))

    def compiled_for(self) -> str:
        taps = winograd_taps(self.m)
        return f"kernels and phases of {', '.join(taps)} taps{GROUPED}" if taps else ""

    def points(self, dense: Dense) -> Axes:
        return tuple(self.m + r - 1 if r > 1 else 1 for r in dense.kernel_size)

    def _transform(self, taps: Tensor, dense: Dense) -> Tensor:
        """(points, groups, in, out)."""
        axes = len(dense.kernel_size)
        leading = taps.permute(*range(3, 3 + axes), 0, 2, 1)
        return along_axes(self._tensors(dense, "kernel", taps), leading).flatten(0, axes - 1)

    def _dense(self, x: Tensor, weight: Tensor, dense: Dense) -> Tensor:
        axes, batch, tiles = len(dense.kernel_size), x.shape[0], self.tiles(dense)
        matrices = self._tensors(dense, "output", x)
        # (points, groups, batch * tiles, out) to (*outputs, groups, batch * tiles, out)
        products = point_products(self._tile_points(x, dense), weight).unflatten(0, self.points(dense))
        y = along_axes(matrices, products).unflatten(axes + 1, (batch, *tiles))
        del products
        # (*outputs, groups, batch, *tiles, out) to (batch, groups * out, *tiles, *outputs)
        order = (axes + 1, axes, 2 * axes + 2, *range(axes + 2, 2 * axes + 2), *range(axes))
        return untiled(y.permute(*order).flatten(1, 2), dense.output_size)

    def _tile_points(self, x: Tensor, dense: Dense) -> Tensor:
        """The input, cut into tiles and transformed: (points, groups, batch * tiles, in)."""
        axes, points = len(dense.kernel_size), self.points(dense)
        x = tiled(x, dense, points, self.outputs(dense), self.tiles(dense))
        # (batch, channels, *tiles, *points) to (*points, batch, *tiles, channels)
        x = x.permute(*range(2 + axes, 2 + 2 * axes), 0, *range(2, 2 + axes), 1)
        x = along_axes(self._tensors(dense, "input", x), x)
        return x.reshape(prod(points), -1, dense.groups, dense.in_channels // dense.groups).transpose(1, 2)

    def _matrices(self, dense: Dense) -> list[ToomCook]:
        return [toom_cook(m, r) for m, r in zip(self.outputs(dense), dense.kernel_size, strict=True)]

    def _tensors(self, dense: Dense, which: str, like: Tensor) -> list[Tensor]:
        sizes = zip(self.outputs(dense), dense.kernel_size, strict=True)
        return [
            torch.tensor(_coefficients(m, r, which), dtype=like.dtype, device=like.device) for m, r in sizes
        ]

    def _products(self, dense: Dense) -> int:
        """(m + r - 1) an axis for each tile and each pair of channels (Lavin and Gray, section 4)."""
        pairs = dense.in_channels * dense.out_channels // dense.groups
        return dense.batch * prod(self.tiles(dense)) * prod(self.points(dense)) * pairs

    def _transforms(self, dense: Dense) -> int:
        """Entries other than 0, 1 and -1, for each line of each tile."""
        total = 0
        channels = {"input": dense.in_channels, "output": dense.out_channels}
        sizes = list(self.points(dense))
        tiles = dense.batch * prod(self.tiles(dense))
        for which in ("input", "output"):
            for axis, matrices in enumerate(self._matrices(dense)):
                lines = prod(size for other, size in enumerate(sizes) if other != axis)
                matrix = getattr(matrices, which)
                total += tiles * channels[which] * lines * _multiplying(matrix)
                sizes[axis] = len(matrix)
        return total

    def _weights(self, dense: Dense) -> int:
        return prod(self.points(dense)) * dense.in_channels * dense.out_channels // dense.groups

    def _buffers(self, dense: Dense) -> int:
        """The input filled up to whole tiles, and twice the transformed input or the products, whichever
        is larger: a transform's input and output, or both of them, exist at a time. With groups a third
        one, while points are sorted by group."""
        tiles, points = self.tiles(dense), self.points(dense)
        most = max(dense.in_channels, dense.out_channels)
        copies = 2 if dense.groups == 1 else 3
        return self._filled(dense) + copies * dense.batch * prod(tiles) * prod(points) * most

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        """The error of a sum over channels and phases, times the amplification of the worst phase."""
        dense = [phase.dense for phase in phases(self._executed(spec))]
        worst = max((prod(m.amplification for m in self._matrices(one)) for one in dense), default=1.0)
        return sum_error(spec, dtype, factor=max(worst, 1.0), length=self._summed(spec))


def _coefficients(m: int, r: int, which: str) -> list[list[float]]:
    """A matrix of F(m, r): a constant to torch.compile, which cannot follow exact fractions."""
    return _floats(getattr(toom_cook(m, r), which))


# What torch.compiler.assume_constant_result sets; to call it imports the compiler, which takes seconds.
vars(_coefficients).update(_dynamo_marked_constant=True)


@lru_cache(maxsize=256)
def _floats(matrix: Matrix) -> list[list[float]]:
    return [[float(value) for value in row] for row in matrix]


@lru_cache(maxsize=64)
def _multiplying(matrix: Matrix) -> int:
    return sum(value not in (Fraction(0), Fraction(1), Fraction(-1)) for row in matrix for value in row)


PATHS = tuple(WinogradPath(m) for m in (2, 4, 6))
ORDER = 70
