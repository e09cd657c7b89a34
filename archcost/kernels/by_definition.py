"""The depthwise convolution by its definition, compiled: for small kernels, with any steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from archcost.errors import InputError
from archcost.kernels.call import Call, window
from archcost.kernels.packed import Packed, packed_data
from archcost.kernels.tensors import channels_together, loaded, planar, readable

__all__ = ["PackedDepthwiseDirect", "depthwise_direct", "pack_depthwise_direct"]


@dataclass(frozen=True)
class PackedDepthwiseDirect(Packed):
    """Tap by tap, the channels next to each other; they suit any stride and dilation."""

    kind = "depthwise-direct"

    def run(self, x: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        return depthwise_direct(x, self, bias, **call)


def pack_depthwise_direct(weight: Tensor, isa: str | None = None) -> PackedDepthwiseDirect:
    """Pack weights [channels, 1, taps...] of a depthwise convolution."""
    source = readable(planar(weight.detach()), "weight").contiguous()
    channels, one, *taps = source.shape
    if one != 1 or not source.numel():
        raise InputError(f"kernel: depthwise weights are [channels, 1, taps...], got {tuple(weight.shape)}")
    found = loaded(isa)
    data = packed_data(found, "depthwise_direct", (*taps, 1, 1, 1, 1, channels), source)
    return PackedDepthwiseDirect((taps[0], taps[1]), channels, channels, found.archcost_isa().decode(), data)


def depthwise_direct(
    x: Tensor, packed: PackedDepthwiseDirect, bias: Tensor | None = None, **call: Unpack[Call]
) -> Tensor:
    """The convolution, with any stride and dilation. The kernel works in channels_last: what lies otherwise
    is copied."""
    axes, asked = x.dim() - 2, call.get("memory_format")
    if asked is None:
        last = axes == 2 and channels_together(x.shape, x.stride())
        asked = torch.channels_last if last else torch.contiguous_format
    numbers = window(packed.taps, call, axes)
    together: Call = {**call, "memory_format": torch.channels_last}
    x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    y = packed.execute("archcost_depthwise_direct", numbers, x, bias, together, steps=True, adds=True)
    return y.contiguous(memory_format=asked)
