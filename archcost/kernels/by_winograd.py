"""Winograd's minimal filtering by the compiled kernel: the tiles there are, weights packed once, the call."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import Unpack

from archcost.errors import InputError
from archcost.kernels import tiles
from archcost.kernels.call import Call
from archcost.kernels.tensors import loaded, planar
from archcost.kernels.tiles import PackedTiles

__all__ = ["WinogradTile", "pack_winograd", "winograd", "winograd_scratch_bytes", "winograd_tiles"]


@dataclass(frozen=True)
class WinogradTile:
    """F(outputs, taps), one of each an axis: how many outputs a tile has, for kernels of how many taps."""

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
    """Every tile the kernels have, or those for kernels of so many taps; the smallest first."""
    return tuple(tile for tile in _places() if taps is None or tile.taps == taps)


def pack_winograd(weight: Tensor, outputs: int | tuple[int, int], isa: str | None = None) -> PackedTiles:
    """Transform weights [out, in, taps...] for tiles of so many outputs and pack them.

    A single number means that many outputs along every axis with more than one tap.
    """
    weight = planar(weight)
    taps = (weight.shape[2], weight.shape[3])
    if isinstance(outputs, int):
        outputs = (outputs if taps[0] > 1 else 1, outputs if taps[1] > 1 else 1)
    tile = WinogradTile(outputs, taps)
    place = _places().get(tile)
    if place is None:
        there = ", ".join(map(str, winograd_tiles(taps))) or "none"
        raise InputError(f"kernel: there is no {tile}; for these taps there are: {there}")
    return tiles.pack(weight, (tiles.WINOGRAD, place, 0), outputs, isa)


def winograd(x: Tensor, packed: PackedTiles, bias: Tensor | None = None, **call: Unpack[Call]) -> Tensor:
    """The convolution of stride 1; the options are those of `archcost.kernels.call.Call`."""
    return packed.run(x, bias, call)


def winograd_scratch_bytes(x: Tensor, packed: PackedTiles, **call: Unpack[Call]) -> int:
    """Working memory of such a call."""
    return tiles.scratch_bytes(x, packed, call)
