"""Packed: weights in the order in which one kernel of one ISA reads them, and that kernel's call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from archcost.errors import InputError
from archcost.kernels.call import CallOptions, convolution, window
from archcost.kernels.tensors import channels_together, checked, loaded, offsets, sides

__all__ = ["KINDS", "Kind", "Packed", "run", "scratch_bytes"]


@dataclass(frozen=True)
class Packed:
    """The packed weights of a kernel, made by `pack_winograd` and the like; used with any input that fits."""

    kind: str
    """The kind of kernel, a key of `KINDS`."""
    taps: tuple[int, int]
    out_channels: int
    in_channels: int
    own: tuple[int, ...]
    """The numbers that only its kind of kernel has, see `KINDS`."""
    isa: str
    """The instruction set that it was packed for."""
    data: Tensor

    @property
    def bytes(self) -> int:
        return self.data.numel() * self.data.element_size()

    @property
    def numbers(self) -> tuple[int, ...]:
        """All fields but data and instruction set, as numbers; `of` reads them."""
        return (*self.taps, self.out_channels, self.in_channels, *self.own)

    @classmethod
    def of(cls, kind: str, numbers: Sequence[int], isa: str, data: Tensor) -> Packed:
        height, width, outs, ins, *own = numbers
        return cls(kind, (height, width), outs, ins, tuple(own), isa, data)

    def run(self, x: Tensor, bias: Tensor | None, options: CallOptions) -> Tensor:
        """The convolution of ``x``; an input in a layout that the kernel does not read is copied."""
        kind, axes = KINDS[self.kind], x.dim() - 2
        behind: torch.memory_format | None = None
        numbers = kind.numbers(self, options, x)
        if kind.layout is torch.channels_last:
            last = axes == 2 and channels_together(x.shape, x.stride())
            behind = options.get("memory_format") or (
                torch.channels_last if last else torch.contiguous_format
            )
            x = x.movedim(1, -1).contiguous().movedim(-1, 1)
            options = {**options, "memory_format": torch.channels_last}
        elif kind.layout is not None:
            x, options = x.contiguous(), {**options, "memory_format": kind.layout}
        channels = (self.in_channels, self.out_channels)
        source, y, problem = convolution(x, self.taps, channels, options, steps=kind.steps)
        added = offsets(bias, self.out_channels)
        buffers = (source, self.data, added, *(None,) * kind.adds, y)
        places = [None if one is None else one.data_ptr() for one in buffers]
        checked(getattr(loaded(self.isa), f"archcost_{self.kind}")(*numbers, problem, *places))
        y = y.squeeze(2) if axes == 1 else y
        return y if behind is None else y.contiguous(memory_format=behind)


class Kind(NamedTuple):
    """How a kernel of the library is called."""

    numbers: Callable[[Packed, CallOptions, Tensor], Sequence[int]]
    """The first arguments of the call; raises InputError for inputs that only this kernel refuses."""
    steps: bool = False
    """Whether it takes a stride and a dilation."""
    adds: bool = False
    """Whether it takes a tensor to add to the output."""
    layout: torch.memory_format | None = None
    """The only layout that it takes; None for any."""


def _window(packed: Packed, options: CallOptions, x: Tensor) -> Sequence[int]:
    return window(packed.taps, options, x.dim() - 2)


def _rows(packed: Packed, options: CallOptions, x: Tensor) -> Sequence[int]:
    left, right = sides(options.get("padding", 0), x.dim() - 2)[-1]
    (size,) = packed.own
    needed = loaded(packed.isa).archcost_depthwise_size(packed.taps[1], x.shape[-1], left, right)
    if not 0 < needed <= size:
        raise InputError(f"kernel: the weights were packed for shorter rows than those of {tuple(x.shape)}")
    return (*packed.taps, size)


def _sequence(packed: Packed, options: CallOptions, x: Tensor) -> Sequence[int]:
    if x.dim() != 3:
        raise InputError(f"kernel: a sequence has 3 dimensions, got {tuple(x.shape)}")
    return (packed.taps[1], *packed.own)


KINDS = {
    # Winograd, or Fourier along the row. Own: the family, two numbers that name the tile, its outputs.
    "tiles": Kind(lambda packed, options, x: packed.own[:3]),
    # Transforms of whole rows. Own: their size.
    "depthwise": Kind(_rows),
    # Partitioned overlap-save. Own: how far apart frames are, half of the transform; and the groups.
    "long_row": Kind(_sequence, layout=torch.contiguous_format),
    "im2col": Kind(_window, steps=True),
    # Tap by tap, the channels next to each other.
    "depthwise_direct": Kind(_window, steps=True, adds=True, layout=torch.channels_last),
}


def run(x: Tensor, packed: Packed, bias: Tensor | None = None, **options: Unpack[CallOptions]) -> Tensor:
    """The convolution by the kernel that its weights were packed for; options as in `CallOptions`.

    Stride and dilation are for im2col and the direct depthwise kernel alone.
    """
    return packed.run(x, bias, options)


def scratch_bytes(x: Tensor, packed: Packed, **options: Unpack[CallOptions]) -> int:
    """Bytes of working memory that such a call of `run` takes."""
    kind, channels = KINDS[packed.kind], (packed.in_channels, packed.out_channels)
    _, _, problem = convolution(x, packed.taps, channels, options, steps=kind.steps)
    floats = getattr(loaded(packed.isa), f"archcost_{packed.kind}_scratch_floats")
    return 4 * int(floats(*kind.numbers(packed, options, x), problem))
