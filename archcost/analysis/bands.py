"""The frequency response of kernels: the share of their energy in low, middle and high bands.

The bands are three equal parts of all frequencies, by their distance from 0 (a wave's cycles per pixel, at
most 1/2 along an axis): a kernel that passes every frequency equally, such as a single tap, has a third in
each. The energy of a kernel w in a band is |W(f)|^2 over the band's frequencies, which is w^T M w for a
matrix M of the band: exact sums over a grid, without a transform of every kernel.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BANDS", "Array", "energies", "layers_with_kernels", "mean_power"]

BANDS = ("low", "middle", "high")
GRID = 32  # frequencies along an axis, of two axes; more for one, fewer for three
_GRIDS = {1: 256, 2: GRID, 3: 12}

Array = NDArray[np.float64]


def layers_with_kernels(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions, transposed ones too, whose kernels have more than one tap, by name."""
    from torch.nn.modules.conv import _ConvNd

    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd) and prod(module.kernel_size) > 1
    }


def energies(kernels: Array) -> Array:
    """The energy of each kernel in the low, middle and high band, and below 1/4 cycle a pixel on every axis.

    Args:
        kernels: (number, *taps), of one to three axes.

    Returns:
        (number, 4); the first three add up to the sum of squares of the kernel's taps.
    """
    flat = kernels.reshape(len(kernels), -1)
    return np.stack([((flat @ one) * flat).sum(1) for one in _forms(kernels.shape[1:])], axis=1)


def mean_power(kernels: Array) -> Array:
    """|W(f)|^2, the mean over the kernels, on a grid from -1/2 to 1/2 cycle, 0 in the middle."""
    taps = kernels.shape[1:]
    flat = kernels.reshape(len(kernels), -1)
    n, moved = _moves(taps)
    correlated = np.zeros((n,) * len(taps))
    # The transform of the kernels' correlation with themselves, summed before it, for a single transform.
    np.add.at(correlated, moved, flat.T @ flat / len(kernels))
    power: Array = np.fft.fftshift(np.fft.fftn(correlated).real)
    return power


@lru_cache(maxsize=32)
def _forms(taps: tuple[int, ...]) -> tuple[Array, ...]:
    """The matrix of each band for kernels of so many taps along each axis, and that of the quarter."""
    n, moved = _moves(taps)
    axis = np.fft.fftfreq(n)
    distance = np.sqrt(sum(part**2 for part in np.meshgrid(*(axis,) * len(taps), indexing="ij")))
    bands = [*_thirds(distance), _within(n, len(taps))]
    # The mean of cos(2 pi f (p - q)) over the band, for all p - q at once: the band's own transform.
    return tuple(np.fft.ifftn(band).real[moved] for band in bands)


def _moves(taps: tuple[int, ...]) -> tuple[int, tuple[NDArray[np.int64], ...]]:
    """The frequencies along an axis, and for each axis the distance of each tap from each, modulo those."""
    n = max(_GRIDS[len(taps)], 2 * max(taps))
    places = np.stack(np.meshgrid(*map(np.arange, taps), indexing="ij"), -1).reshape(-1, len(taps))
    return n, tuple(np.moveaxis((places[:, None] - places[None]) % n, -1, 0))


def _thirds(distance: Array) -> list[Array]:
    """How much of each frequency belongs to each band: equal distances share a border in proportion."""
    _, group, sizes = np.unique(distance.round(9), return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes) / distance.size
    starts = ends - sizes / distance.size
    bands = []
    for at in range(3):
        part = np.clip(np.minimum(ends, (at + 1) / 3) - np.maximum(starts, at / 3), 0, None)
        bands.append((part / (ends - starts))[group].reshape(distance.shape))
    return bands


def _within(n: int, axes: int) -> Array:
    """1 for the frequencies below 1/4 cycle on every axis, which a map of half the size can hold."""
    axis = np.abs(np.fft.fftfreq(n))
    one = np.where(axis < 0.25, 1.0, np.where(axis == 0.25, 0.5, 0.0))
    whole = one
    for _ in range(axes - 1):
        whole = whole[..., None] * one
    return whole
