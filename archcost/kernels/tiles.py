"""The call that Winograd's and Fourier's tiles have in common: weights packed once, then input to output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from archcost.kernels.call import Call, convolution
from archcost.kernels.packed import Packed
from archcost.kernels.tensors import checked, loaded, offsets, readable

__all__ = ["PackedTiles", "pack", "run", "scratch_bytes"]

WINOGRAD, FOURIER = 0, 1


@dataclass(frozen=True)
class PackedTiles(Packed):
    """Weights transformed for tiles."""

    kind = "tiles"
    name: tuple[int, int, int]
    """Family, and the two numbers that name the tile within it."""
    outputs: tuple[int, int]
    """Of a tile."""

    def _added(self) -> tuple[int, ...]:
        return (*self.name, *self.outputs)

    @classmethod
    def _read(cls, added: list[int]) -> dict[str, Any]:
        return {"name": tuple(added[:3]), "outputs": tuple(added[3:])}

    def run(self, x: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        return run(x, self, bias, call)


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
    return PackedTiles((taps[0], taps[1]), out_channels, in_channels, used, data, name, outputs)


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
