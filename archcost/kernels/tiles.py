"""The call that Winograd's and Fourier's tiles have in common: weights packed once, then input to output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from archcost.kernels.call import Call, convolution
from archcost.kernels.tensors import checked, loaded, offsets, readable

__all__ = ["PackedTiles", "pack", "run", "scratch_bytes"]

WINOGRAD, FOURIER = 0, 1


@dataclass(frozen=True)
class PackedTiles:
    """Weights transformed for tiles, in the order in which the kernel of one ISA reads them."""

    name: tuple[int, int, int]
    """Family, and the two numbers that name the tile within it."""
    outputs: tuple[int, int]
    """Of a tile."""
    taps: tuple[int, int]
    out_channels: int
    in_channels: int
    isa: str
    data: Tensor

    @property
    def bytes(self) -> int:
        return self.data.numel() * self.data.element_size()


def pack(
    weight: Tensor, name: tuple[int, int, int], outputs: tuple[int, int], isa: str | None
) -> PackedTiles:
    """Transform weights [out, in, height, width], in double precision."""
    source = readable(weight.detach(), "weight").contiguous()
    out_channels, in_channels, *taps = source.shape
    found = loaded(isa)
    data = torch.empty(found.archcost_tiles_packed_floats(*name, out_channels, in_channels))
    found.archcost_prefer_huge_pages(data.data_ptr(), data.numel() * 4)
    checked(found.archcost_tiles_pack(*name, out_channels, in_channels, source.data_ptr(), data.data_ptr()))
    used = found.archcost_isa().decode()
    return PackedTiles(name, outputs, (taps[0], taps[1]), out_channels, in_channels, used, data)


def run(x: Tensor, packed: PackedTiles, bias: Tensor | None, call: Call) -> Tensor:
    source, output, problem = convolution(x, packed.taps, (packed.in_channels, packed.out_channels), call)
    added = offsets(bias, packed.out_channels)
    checked(
        loaded(packed.isa).archcost_tiles(
            *packed.name,
            problem,
            source.data_ptr(),
            packed.data.data_ptr(),
            None if added is None else added.data_ptr(),
            output.data_ptr(),
        )
    )
    return output.squeeze(2) if x.dim() == 3 else output


def scratch_bytes(x: Tensor, packed: PackedTiles, call: Call) -> int:
    _, _, problem = convolution(x, packed.taps, (packed.in_channels, packed.out_channels), call)
    return 4 * int(loaded(packed.isa).archcost_tiles_scratch_floats(*packed.name, problem))
