"""What Winograd's and the Fourier paths share: tiles, transforms along one axis, products at every point."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F

from archcost.paths.geometry import Axes, trailing
from archcost.paths.phases import Dense

__all__ = ["along_axes", "filling_elements", "point_products", "tiled", "untiled", "whole_size"]


def tiled(x: torch.Tensor, dense: Dense, sizes: Axes, steps: Axes, tiles: Axes) -> torch.Tensor:
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
    """What whole tiles cover of each axis."""
    return tuple((n - 1) * step + size for n, step, size in zip(tiles, steps, sizes, strict=True))


def untiled(y: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(batch, channels, *tiles, *outputs of a tile) to (batch, channels, *size)."""
    axes = len(size)
    pairs = [dim for axis in range(axes) for dim in (2 + axis, 2 + axes + axis)]
    y = y.permute(0, 1, *pairs)
    for axis in range(axes):
        y = y.flatten(2 + axis, 3 + axis)
    return y[trailing(map(slice, size))]


def along_axes(matrices: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Each of the leading axes of x by its own matrix."""
    for axis, matrix in enumerate(matrices):
        before, (size, *after) = x.shape[:axis], x.shape[axis:]
        lines = x.reshape(prod(before), size, -1)
        product = torch.bmm(matrix.expand(len(lines), -1, -1), lines)
        x = product.reshape(*before, len(matrix), *after)
    return x


def filling_elements(dense: Dense, whole: Axes) -> int:
    """Of the copy that `tiled` makes where whole tiles reach beyond the input."""
    return dense.batch * dense.in_channels * prod(whole) if whole != dense.input_size else 0


def point_products(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """At each point and group: (points, groups, tiles, in) by (points, groups, in, out)."""
    return x * weight if weight.shape[2] == 1 else x @ weight
