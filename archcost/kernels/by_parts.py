"""The convolution along a row with many taps, compiled: partitioned overlap-save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from archcost.errors import InputError
from archcost.kernels.by_fourier import fft_size
from archcost.kernels.call import Call
from archcost.kernels.packed import Packed, packed_data
from archcost.kernels.tensors import loaded, readable

__all__ = ["PackedLongRow", "long_row", "pack_long_row"]


@dataclass(frozen=True)
class PackedLongRow(Packed):
    """The spectra of the parts of the taps."""

    kind = "long-row"
    step: int
    """Taps of a part, and pixels from one frame to the next: half of the transform."""
    groups: int

    def _added(self) -> tuple[int, ...]:
        return (self.step, self.groups)

    @classmethod
    def _read(cls, added: list[int]) -> dict[str, Any]:
        return {"step": added[0], "groups": added[1]}

    def run(self, x: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        return long_row(x, self, bias, **call)


def pack_long_row(weight: Tensor, step: int, groups: int = 1, isa: str | None = None) -> PackedLongRow:
    """Transform weights [out, in of a group, taps] for frames ``step`` pixels apart."""
    if weight.dim() != 3 or not weight.numel() or weight.shape[0] % groups:
        raise InputError(f"kernel: weights of {groups} groups are [out, in, taps], got {tuple(weight.shape)}")
    if step < 2 or fft_size(2 * step) != 2 * step:
        raise InputError(f"kernel: there is no transform of {2 * step} for frames {step} pixels apart")
    source = readable(weight.detach().unsqueeze(2), "weight").contiguous()
    out_channels, in_channels, _, taps = source.shape
    found = loaded(isa)
    data = packed_data(found, "long_row", (taps, step, out_channels, in_channels), source)
    used = found.archcost_isa().decode()
    return PackedLongRow((1, taps), out_channels, in_channels * groups, used, data, step, groups)


def long_row(x: Tensor, packed: PackedLongRow, bias: Tensor | None = None, **call: Unpack[Call]) -> Tensor:
    """The convolution of [batch, channels, length], of stride 1; see `archcost.kernels.winograd`."""
    if x.dim() != 3:
        raise InputError(f"kernel: a sequence has 3 dimensions, got {tuple(x.shape)}")
    numbers = (packed.taps[1], packed.step, packed.groups)
    together: Call = {**call, "memory_format": torch.contiguous_format}
    return packed.execute("archcost_long_row", numbers, x.contiguous(), bias, together)
