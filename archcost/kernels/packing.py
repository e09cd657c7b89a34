"""Packing of weights for the compiled kernels, and the tiles and transforms that the kernels have."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archcost.errors import InputError
from archcost.kernels.call import Padding
from archcost.kernels.packed import Packed
from archcost.kernels.tensors import checked, loaded, planar, readable, sides

__all__ = [
    *("FOURIER", "FOURIER_OF_PAIRS", "WINOGRAD", "WinogradTile", "fft_size", "pack_depthwise"),
    *("pack_depthwise_direct", "pack_fourier", "pack_im2col", "pack_long_row", "pack_winograd"),
    *("winograd_place", "winograd_tiles"),
]

WINOGRAD, FOURIER, FOURIER_OF_PAIRS = 0, 1, 2  # families of tiles, see src/find_tile.h


@dataclass(frozen=True)
class WinogradTile:
    """F(outputs, taps): the outputs of a tile and the taps of its kernel, on each axis."""

    outputs: tuple[int, int]
    taps: tuple[int, int]

    def __str__(self) -> str:
        (mh, mw), (rh, rw) = self.outputs, self.taps
        return f"F({mh}x{mw}, {rh}x{rw})"


@functools.cache
def _places() -> dict[WinogradTile, int]:
    found: dict[WinogradTile, int] = {}
    sizes = (ctypes.c_int64 * 4)()
    while loaded().archcost_winograd_tile(len(found), sizes):
        mh, rh, mw, rw = sizes
        found[WinogradTile((mh, mw), (rh, rw))] = len(found)
    return found


def winograd_tiles(taps: tuple[int, int] | None = None) -> tuple[WinogradTile, ...]:
    """Every tile of the kernels, or those for these taps; the smallest first."""
    return tuple(tile for tile in _places() if taps is None or tile.taps == taps)


def winograd_place(outputs: tuple[int, int], taps: tuple[int, int]) -> int | None:
    """The index of a tile among `winograd_tiles()`; None where the kernels have no such tile."""
    return _places().get(WinogradTile(outputs, taps))


def fft_size(at_least: int) -> int | None:
    """The smallest transform of the kernels of at least this size; None where it is too large."""
    return loaded().archcost_fft_size(at_least) or None


def pack_winograd(weight: Tensor, outputs: int | tuple[int, int], isa: str | None = None) -> Packed:
    """Transform weights [out, in, taps...], in double precision, for tiles of so many outputs and pack them.

    A single number means that many outputs along every axis with more than one tap.
    """
    height, width = planar(weight).shape[2:]
    if isinstance(outputs, int):
        outputs = (outputs if height > 1 else 1, outputs if width > 1 else 1)
    place = winograd_place(outputs, (height, width))
    if place is None:
        there = ", ".join(map(str, winograd_tiles((height, width)))) or "none"
        tile = WinogradTile(outputs, (height, width))
        raise InputError(f"kernel: there is no {tile}; for these taps there are: {there}")
    return _packed("tiles", weight, (WINOGRAD, place, 0), isa, (WINOGRAD, place, 0, *outputs))


def pack_fourier(weight: Tensor, size: int, isa: str | None = None, *, gauss: bool = True) -> Packed:
    """Transform weights [out, in, taps] or [out, in, 1, taps] for tiles of ``size`` inputs along the row.

    Two complex numbers are multiplied by three real products, or without ``gauss`` by four with fewer
    weights.
    """
    rows, taps = planar(weight).shape[2:]
    if rows != 1 or not taps <= size == fft_size(size):
        raise InputError(
            f"kernel: no transform of size {size} for taps {(rows, taps)}: they must lie "
            "along the row, and the size, at least as many, comes from fft_size"
        )
    name = (FOURIER if gauss else FOURIER_OF_PAIRS, size, taps)
    return _packed("tiles", weight, name, isa, (*name, 1, size - taps + 1))


def pack_depthwise(weight: Tensor, width: int, *, padding: Padding = 0, isa: str | None = None) -> Packed:
    """Transform weights [channels, 1, taps...] for inputs with rows of ``width`` pixels."""
    taps = _depthwise_taps(weight)
    left, right = sides(padding, weight.dim() - 2)[-1]
    size = loaded(isa).archcost_depthwise_size(taps[1], width, left, right)
    if not size:
        raise InputError(f"kernel: rows of {width} with {taps[1]} taps are too long for one transform")
    return _packed("depthwise", weight, (*taps, size), isa, (size,), depthwise=True)


def pack_depthwise_direct(weight: Tensor, isa: str | None = None) -> Packed:
    """Pack weights [channels, 1, taps...] of a depthwise convolution with any steps."""
    return _packed("depthwise_direct", weight, (*_depthwise_taps(weight), 1, 1, 1, 1), isa, depthwise=True)


def pack_im2col(weight: Tensor, isa: str | None = None) -> Packed:
    """Pack weights [out, in, taps...] of a convolution with one group and any steps."""
    return _packed("im2col", weight, (*planar(weight).shape[2:], 1, 1, 1, 1), isa)


def pack_long_row(weight: Tensor, step: int, groups: int = 1, isa: str | None = None) -> Packed:
    """Transform weights [out, in of a group, taps] for frames ``step`` pixels apart."""
    if weight.dim() != 3 or not weight.numel() or weight.shape[0] % groups:
        raise InputError(f"kernel: weights of {groups} groups are [out, in, taps], got {tuple(weight.shape)}")
    if step < 2 or fft_size(2 * step) != 2 * step:
        raise InputError(f"kernel: there is no transform of {2 * step} for frames {step} pixels apart")
    return _packed("long_row", weight, (weight.shape[2], step), isa, (step, groups), groups=groups)


def _depthwise_taps(weight: Tensor) -> tuple[int, int]:
    _, one, height, width = planar(weight).shape
    if one != 1:
        raise InputError(f"kernel: depthwise weights are [channels, 1, taps...], got {tuple(weight.shape)}")
    return height, width


def _packed(
    kind: str, weight: Tensor, settled: Sequence[int], isa: str | None, own: tuple[int, ...] = (), *,
    depthwise: bool = False, groups: int = 1,
) -> Packed:  # fmt: skip
    """Pack weights for a kernel; ``settled`` are its arguments before the numbers of channels."""
    source = readable(planar(weight.detach()), "weight").contiguous()
    if not source.numel():
        raise InputError(f"kernel: there are no weights in {tuple(weight.shape)}")
    outs, ins, height, width = source.shape
    found = loaded(isa)
    shape = (*settled, outs) if depthwise else (*settled, outs, ins)
    data = torch.empty(getattr(found, f"archcost_{kind}_packed_floats")(*shape))
    found.archcost_prefer_huge_pages(data.data_ptr(), data.numel() * 4)
    checked(getattr(found, f"archcost_{kind}_pack")(*shape, source.data_ptr(), data.data_ptr()))
    inputs = outs if depthwise else ins * groups
    return Packed(kind, (height, width), outs, inputs, own, found.archcost_isa().decode(), data)
