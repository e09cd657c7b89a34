"""Convolutions by Fourier transforms, compiled: dense along a row in tiles, depthwise with large kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from archcost.errors import InputError
from archcost.kernels import tiles
from archcost.kernels.call import Call, Padding
from archcost.kernels.packed import Packed, packed_data
from archcost.kernels.tensors import loaded, planar, readable, sides
from archcost.kernels.tiles import PackedTiles

__all__ = ["PackedDepthwise", "depthwise", "fft_size", "fourier", "pack_depthwise", "pack_fourier"]


def fft_size(at_least: int) -> int | None:
    """The next size of a transform that the kernels have."""
    return loaded().archcost_fft_size(at_least) or None


def pack_fourier(weight: Tensor, size: int, isa: str | None = None) -> PackedTiles:
    """Transform weights [out, in, taps] or [out, in, 1, taps] for tiles of ``size`` inputs along the row."""
    weight = planar(weight)
    taps = weight.shape[3]
    if weight.shape[2] != 1 or not taps <= size == fft_size(size):
        raise InputError(
            f"kernel: no transform of size {size} for taps {tuple(weight.shape[2:])}: they must lie "
            "along the row, and the size, at least as many, comes from fft_size"
        )
    return tiles.pack(weight, (tiles.FOURIER, size, taps), (1, size - taps + 1), isa)


def fourier(x: Tensor, packed: PackedTiles, bias: Tensor | None = None, **call: Unpack[Call]) -> Tensor:
    """As `archcost.kernels.winograd`, by overlapping transforms along the row."""
    return packed.run(x, bias, call)


@dataclass(frozen=True)
class PackedDepthwise(Packed):
    """Weights of a depthwise convolution, transformed for rows of one length with one padding."""

    kind = "depthwise"
    size: int
    """Of the transform of a row."""

    def _added(self) -> tuple[int, ...]:
        return (self.size,)

    @classmethod
    def _read(cls, added: list[int]) -> dict[str, Any]:
        return {"size": added[0]}

    def run(self, x: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        return depthwise(x, self, bias, **call)


def pack_depthwise(
    weight: Tensor, width: int, *, padding: Padding = 0, isa: str | None = None
) -> PackedDepthwise:
    """Transform weights [channels, 1, taps...] for inputs with rows of ``width`` pixels."""
    axes = weight.dim() - 2
    weight = planar(weight.detach())
    channels, one, *taps = weight.shape
    if one != 1:
        raise InputError(f"kernel: depthwise weights are [channels, 1, taps...], got {tuple(weight.shape)}")
    found = loaded(isa)
    left, right = sides(padding, axes)[-1]
    size = found.archcost_depthwise_size(taps[1], width, left, right)
    if not size:
        raise InputError(f"kernel: rows of {width} with {taps[1]} taps are too long for one transform")
    source = readable(weight, "weight").contiguous()
    data = packed_data(found, "depthwise", (*taps, size, channels), source)
    return PackedDepthwise((taps[0], taps[1]), channels, channels, found.archcost_isa().decode(), data, size)


def depthwise(x: Tensor, packed: PackedDepthwise, bias: Tensor | None = None, **call: Unpack[Call]) -> Tensor:
    """The depthwise convolution of stride 1; see `archcost.kernels.winograd`."""
    left, right = sides(call.get("padding", 0), x.dim() - 2)[-1]
    needed = loaded(packed.isa).archcost_depthwise_size(packed.taps[1], x.shape[-1], left, right)
    if not 0 < needed <= packed.size:
        raise InputError(f"kernel: the weights were packed for shorter rows than those of {tuple(x.shape)}")
    return packed.execute("archcost_depthwise", (*packed.taps, packed.size), x, bias, call)
