"""The convolution by its definition, compiled: blocks of output positions times weights, with any steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from archcost.errors import InputError
from archcost.kernels.call import Call, convolution, window
from archcost.kernels.packed import Packed
from archcost.kernels.tensors import checked, loaded, offsets, planar, readable

__all__ = ["PackedIm2col", "im2col", "im2col_scratch_bytes", "pack_im2col"]


@dataclass(frozen=True)
class PackedIm2col(Packed):
    """They suit any stride and dilation."""

    kind = "im2col"

    def run(self, x: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        return im2col(x, self, bias, **call)


def pack_im2col(weight: Tensor, isa: str | None = None) -> PackedIm2col:
    """Pack weights [out, in, taps...] of a convolution with one group."""
    source = readable(planar(weight.detach()), "weight").contiguous()
    out_channels, in_channels, *taps = source.shape
    if not source.numel():
        raise InputError(f"kernel: there are no weights in {tuple(weight.shape)}")
    found = loaded(isa)
    shape = (*taps, 1, 1, 1, 1)
    data = torch.empty(found.archcost_im2col_packed_floats(*shape, out_channels, in_channels))
    found.archcost_prefer_huge_pages(data.data_ptr(), data.numel() * 4)
    checked(found.archcost_im2col_pack(*shape, out_channels, in_channels, source.data_ptr(), data.data_ptr()))
    return PackedIm2col((taps[0], taps[1]), out_channels, in_channels, found.archcost_isa().decode(), data)


def im2col(x: Tensor, packed: PackedIm2col, bias: Tensor | None = None, **call: Unpack[Call]) -> Tensor:
    """The convolution, with any stride and dilation; a block of it is ``block_tiles`` output positions."""
    channels = (packed.in_channels, packed.out_channels)
    source, output, problem = convolution(x, packed.taps, channels, call, steps=True)
    added = offsets(bias, packed.out_channels)
    checked(
        loaded(packed.isa).archcost_im2col(
            *window(packed.taps, call, x.dim() - 2),
            problem,
            source.data_ptr(),
            packed.data.data_ptr(),
            None if added is None else added.data_ptr(),
            output.data_ptr(),
        )
    )
    return output.squeeze(2) if x.dim() == 3 else output


def im2col_scratch_bytes(x: Tensor, packed: PackedIm2col, **call: Unpack[Call]) -> int:
    """Working memory of such a call."""
    channels = (packed.in_channels, packed.out_channels)
    _, _, problem = convolution(x, packed.taps, channels, call, steps=True)
    found = loaded(packed.isa)
    return 4 * int(found.archcost_im2col_scratch_floats(*window(packed.taps, call, x.dim() - 2), problem))
