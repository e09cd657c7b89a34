"""What Winograd's and the Fourier paths share: tiles, transforms along one axis, products at every point."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F

from archcost.paths.geometry import trailing

__all__ = ["along_axes", "filling_elements", "point_products", "tiled", "untiled"]


def tiled(x: torch.Tensor, sizes: Sequence[int], steps: Sequence[int], tiles: Sequence[int]) -> torch.Tensor:
    """(batch, channels, *spatial) to (batch, channels, *tiles, *sizes): overlapping tiles, a view.

    The last tiles are filled with zeros.
    """
    wanted = [(n - 1) * step + size for n, step, size in zip(tiles, steps, sizes, strict=True)]
    missing = [w - n for w, n in zip(wanted, x.shape[2:], strict=True)]
    if any(missing):
        x = F.pad(x, [side for m in reversed(missing) for side in (0, m)])
    for axis, (size, step) in enumerate(zip(sizes, steps, strict=True)):
        x = x.unfold(2 + axis, size, step)
    return x


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


def filling_elements(planes: int, wanted: Sequence[int], given: Sequence[int]) -> int:
    """Of the copy that `tiled` makes where the last tiles reach beyond the input, so many planes of it."""
    return planes * prod(wanted) if tuple(wanted) != tuple(given) else 0


def point_products(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """At each point and group: (points, groups, tiles, in) by (points, groups, in, out)."""
    return x * weight if weight.shape[2] == 1 else x @ weight
