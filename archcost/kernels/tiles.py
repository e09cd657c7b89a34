"""What Winograd's and Fourier's tiles have in common: weights packed once, and the memory of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from archcost.kernels.call import Call, convolution
from archcost.kernels.packed import Packed, packed_data
from archcost.kernels.tensors import loaded, readable

__all__ = ["PackedTiles", "pack", "scratch_bytes"]

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
        return self.execute("archcost_tiles", self.name, x, bias, call)


def pack(
    weight: Tensor, name: tuple[int, int, int], outputs: tuple[int, int], isa: str | None
) -> PackedTiles:
    """Transform weights [out, in, height, width], in double precision."""
    source = readable(weight.detach(), "weight").contiguous()
    out_channels, in_channels, *taps = source.shape
    found = loaded(isa)
    data = packed_data(found, "tiles", (*name, out_channels, in_channels), source)
    used = found.archcost_isa().decode()
    return PackedTiles((taps[0], taps[1]), out_channels, in_channels, used, data, name, outputs)


def scratch_bytes(x: Tensor, packed: PackedTiles, call: Call) -> int:
    _, _, problem = convolution(x, packed.taps, (packed.in_channels, packed.out_channels), call)
    return 4 * int(loaded(packed.isa).archcost_tiles_scratch_floats(*packed.name, problem))
