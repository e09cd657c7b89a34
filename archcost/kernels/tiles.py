"""The call that Winograd's and Fourier's tiles have in common: weights packed once, then input to output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archcost.errors import InputError
from archcost.kernels.loading import Convolution
from archcost.kernels.tensors import checked, images, loaded, offsets, output_like, planar, readable, sides

__all__ = ["PackedTiles", "convolution", "pack", "run", "scratch_bytes"]

WINOGRAD, FOURIER = 0, 1
Padding = int | Sequence[int | tuple[int, int]]


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


def run(
    x: Tensor,
    packed: PackedTiles,
    bias: Tensor | None,
    padding: Padding,
    relu: bool,
    threads: int | None,
    block_tiles: int,
) -> Tensor:
    source, output, problem = convolution(
        x, packed.taps, (packed.in_channels, packed.out_channels), padding, relu, threads, block_tiles
    )
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


def scratch_bytes(x: Tensor, packed: PackedTiles, padding: Padding, threads: int | None) -> int:
    channels = (packed.in_channels, packed.out_channels)
    _, _, problem = convolution(x, packed.taps, channels, padding, False, threads, 0)
    return 4 * int(loaded(packed.isa).archcost_tiles_scratch_floats(*packed.name, problem))


def convolution(
    x: Tensor,
    taps: tuple[int, int],
    channels: tuple[int, int],
    padding: Padding,
    relu: bool,
    threads: int | None,
    block_tiles: int = 0,
) -> tuple[Tensor, Tensor, Convolution]:
    """The input as the kernel can read it, the empty output, and what is to be done between them."""
    axes = x.dim() - 2
    source = readable(planar(x.detach()))
    pads = sides(padding, axes)
    if source.shape[1] != channels[0]:
        raise InputError(
            f"kernel: the weights are for {channels[0]} channels, the input has {source.shape[1]}"
        )
    (top, bottom), (left, right) = pads if axes == 2 else ((0, 0), *pads)
    height = source.shape[2] + top + bottom - taps[0] + 1
    width = source.shape[3] + left + right - taps[1] + 1
    if min(height, width, *source.shape) < 1:
        raise InputError(f"kernel: {taps[0]}x{taps[1]} taps do not fit the input of {tuple(x.shape)}")
    output = output_like(source, channels[1], height, width)
    most = torch.get_num_threads() if threads is None else threads
    return source, output, Convolution(images(source), images(output), top, left, relu, most, block_tiles)
