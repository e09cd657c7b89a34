"""The convolution by its definition, compiled: blocks of output positions times weights, with any steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from archcost.errors import InputError
from archcost.kernels.call import Call, Steps, convolution, steps
from archcost.kernels.loading import Convolution
from archcost.kernels.tensors import checked, loaded, offsets, planar, readable

__all__ = ["PackedIm2col", "im2col", "im2col_scratch_bytes", "pack_im2col"]


@dataclass(frozen=True)
class PackedIm2col:
    """Weights in the order in which the kernel of one ISA reads them; they suit any stride and dilation."""

    taps: tuple[int, int]
    out_channels: int
    in_channels: int
    isa: str
    data: Tensor

    @property
    def bytes(self) -> int:
        return self.data.numel() * self.data.element_size()


def pack_im2col(weight: Tensor, isa: str | None = None) -> PackedIm2col:
    """Pack weights [out, in, taps...] of a convolution with one group."""
    source = readable(planar(weight.detach()), "weight").contiguous()
    out_channels, in_channels, *taps = source.shape
    if not source.numel():
        raise InputError(f"kernel: there are no weights in {tuple(weight.shape)}")
    found = loaded(isa)
    window = (*taps, 1, 1, 1, 1)
    data = torch.empty(found.archcost_im2col_packed_floats(*window, out_channels, in_channels))
    found.archcost_prefer_huge_pages(data.data_ptr(), data.numel() * 4)
    checked(
        found.archcost_im2col_pack(*window, out_channels, in_channels, source.data_ptr(), data.data_ptr())
    )
    return PackedIm2col((taps[0], taps[1]), out_channels, in_channels, found.archcost_isa().decode(), data)


def _problem(
    x: Tensor, packed: PackedIm2col, stride: Steps, dilation: Steps, call: Call
) -> tuple[Tensor, Tensor, tuple[int, ...], Convolution]:
    axes = x.dim() - 2
    step, apart = steps(stride, axes), steps(dilation, axes)
    channels = (packed.in_channels, packed.out_channels)
    source, output, problem = convolution(x, packed.taps, channels, call, step, apart)
    return source, output, (*packed.taps, *step, *apart), problem


def im2col(
    x: Tensor,
    packed: PackedIm2col,
    bias: Tensor | None = None,
    *,
    stride: Steps = 1,
    dilation: Steps = 1,
    **call: Unpack[Call],
) -> Tensor:
    """The convolution; the other options are those of `archcost.kernels.call.Call`.

    A block of it is so many output positions: ``block_tiles``.
    """
    source, output, window, problem = _problem(x, packed, stride, dilation, call)
    added = offsets(bias, packed.out_channels)
    checked(
        loaded(packed.isa).archcost_im2col(
            *window,
            problem,
            source.data_ptr(),
            packed.data.data_ptr(),
            None if added is None else added.data_ptr(),
            output.data_ptr(),
        )
    )
    return output.squeeze(2) if x.dim() == 3 else output


def im2col_scratch_bytes(
    x: Tensor, packed: PackedIm2col, *, stride: Steps = 1, dilation: Steps = 1, **call: Unpack[Call]
) -> int:
    """Working memory of such a call."""
    _, _, window, problem = _problem(x, packed, stride, dilation, call)
    return 4 * int(loaded(packed.isa).archcost_im2col_scratch_floats(*window, problem))
