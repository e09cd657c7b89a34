"""The convolution by its definition, compiled: blocks of output positions times weights, with any steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import Unpack

from archcost.errors import InputError
from archcost.kernels.call import Call, convolution, window
from archcost.kernels.packed import Packed, packed_data
from archcost.kernels.tensors import loaded, planar, readable

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
    data = packed_data(found, "im2col", (*taps, 1, 1, 1, 1, out_channels, in_channels), source)
    return PackedIm2col((taps[0], taps[1]), out_channels, in_channels, found.archcost_isa().decode(), data)


def im2col(x: Tensor, packed: PackedIm2col, bias: Tensor | None = None, **call: Unpack[Call]) -> Tensor:
    """The convolution, with any stride and dilation; a block of it is ``block_tiles`` output positions."""
    numbers = window(packed.taps, call, x.dim() - 2)
    return packed.execute("archcost_im2col", numbers, x, bias, call, steps=True)


def im2col_scratch_bytes(x: Tensor, packed: PackedIm2col, **call: Unpack[Call]) -> int:
    """Working memory of such a call."""
    channels = (packed.in_channels, packed.out_channels)
    _, _, problem = convolution(x, packed.taps, channels, call, steps=True)
    found = loaded(packed.isa)
    return 4 * int(found.archcost_im2col_scratch_floats(*window(packed.taps, call, x.dim() - 2), problem))
