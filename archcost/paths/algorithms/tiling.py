"""TiledPath, for Winograd and Fourier paths: overlapping tiles, multiplied point by point."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import inf, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from archcost.paths.algorithms.phased import PhasedPath
from archcost.paths.geometry import Axes, trailing
from archcost.paths.phases import Dense, phases, summed_phases
from archcost.spec import ConvSpec

__all__ = ["TiledPath", "along_axes", "point_products", "tiled", "untiled"]


class TiledPath(PhasedPath):
    """A tile of t pixels along an axis with r taps gives t - r + 1 outputs, and the next one begins there."""

    @abstractmethod
    def points(self, dense: Dense) -> Axes:
        """Pixels of a tile along each axis; 1 where the kernel has one tap and there is nothing to save."""

    @abstractmethod
    def _fits(self, taps: int) -> bool:
        """Whether tiles are large enough for so many taps along an axis."""

    def outputs(self, dense: Dense) -> Axes:
        """Outputs of a tile along each axis."""
        return tuple(t - r + 1 for t, r in zip(self.points(dense), dense.kernel_size, strict=True))

    def tiles(self, dense: Dense) -> Axes:
        """The number of tiles along each axis, the last of which reach beyond the map."""
        return tuple(-(-n // m) for n, m in zip(dense.output_size, self.outputs(dense), strict=True))

    def _filled(self, dense: Dense) -> int:
        """Elements of the copy that `tiled` makes where whole tiles reach beyond the input."""
        whole = whole_size(self.points(dense), self.outputs(dense), self.tiles(dense))
        return dense.batch * dense.in_channels * prod(whole) if whole != dense.input_size else 0

    def _all_multiplications(self, spec: ConvSpec) -> float:
        """All multiplications, transforms included; infinite where tiles are too small for the kernel."""
        dense = [phase.dense for phase in phases(spec)]
        if not self._fits(max(max(one.kernel_size) for one in dense)):
            return inf
        return sum(self._products(one) + self._transforms(one) for one in dense)

    def _summed(self, spec: ConvSpec) -> int:
        """Products that are summed for one output: over channels and phases."""
        executed = self._executed(spec)
        return executed.in_channels // spec.groups * summed_phases(executed)

    def _longest(self, spec: ConvSpec) -> int:
        """Taps along an axis, of all phases."""
        return max((max(phase.dense.kernel_size) for phase in phases(self._executed(spec))), default=1)


def tiled(x: Tensor, dense: Dense, sizes: Axes, steps: Axes, tiles: Axes) -> Tensor:
    """(batch, channels, *spatial) to (batch, channels, *tiles, *sizes): overlapping tiles, a view.

    The input is padded, and the last tiles filled up, with zeros.
    """
    flat: list[int] = []
    columns = zip(whole_size(sizes, steps, tiles), dense.padding, x.shape[2:], strict=True)
    for whole, (low, _), n in reversed(list(columns)):
        flat += [low, whole - low - n]
    if any(flat):
        x = F.pad(x, flat)
    for axis, (size, step) in enumerate(zip(sizes, steps, strict=True)):
        x = x.unfold(2 + axis, size, step)
    return x


def whole_size(sizes: Axes, steps: Axes, tiles: Axes) -> Axes:
    """Pixels that whole tiles cover along each axis."""
    return tuple((n - 1) * step + size for n, step, size in zip(tiles, steps, sizes, strict=True))


def untiled(y: Tensor, size: Sequence[int]) -> Tensor:
    """(batch, channels, *tiles, *outputs of a tile) to (batch, channels, *size)."""
    axes = len(size)
    pairs = [dim for axis in range(axes) for dim in (2 + axis, 2 + axes + axis)]
    y = y.permute(0, 1, *pairs)
    for axis in range(axes):
        y = y.flatten(2 + axis, 3 + axis)
    return y[trailing(map(slice, size))]


def along_axes(matrices: Sequence[Tensor], x: Tensor) -> Tensor:
    """Each of the leading axes of x by its own matrix."""
    for axis, matrix in enumerate(matrices):
        before, (size, *after) = x.shape[:axis], x.shape[axis:]
        lines = x.reshape(prod(before), size, -1)
        product = torch.bmm(matrix.expand(len(lines), -1, -1), lines)
        x = product.reshape(*before, len(matrix), *after)
    return x


def point_products(x: Tensor, weight: Tensor) -> Tensor:
    """At each point and group: (points, groups, tiles, in) by (points, groups, in, out)."""
    return x * weight if weight.shape[2] == 1 else x @ weight
