"""Convolutions from and to blocked tensors, by the steps of the engine's programs.

A blocked tensor is (batch, block, height, width, lane): ``lanes()`` channels of a pixel lie side by side. It
is what kernels read and write fastest, and what the engine's layers hand each other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import Structure, c_int, c_void_p
from math import inf

import torch
from torch import Tensor

from archcost.errors import InputError
from archcost.kernels.loading import Images, Problem
from archcost.kernels.packed import Packed
from archcost.kernels.steps import (
    ActivationArguments,
    DepthwiseArguments,
    DirectArguments,
    FftDepthwiseArguments,
    GroupedArguments,
    TilesArguments,
    WindowArguments,
)
from archcost.kernels.tensors import images, loaded, planar

__all__ = [
    *("FEW_CHANNELS", "BlockedConvolution", "from_blocks", "lanes", "pack_direct", "pack_grouped"),
    "to_blocks",
]

# Of an input that stays in NCHW: blocks of it would be mostly padding.
FEW_CHANNELS = 4
_CLAMP = 1


def lanes(isa: str | None = None) -> int:
    """Channels in a block."""
    return int(loaded(isa).archcost_lanes())


def to_blocks(x: Tensor, isa: str | None = None) -> Tensor:
    """(batch, channels, length) or (batch, channels, height, width) as a blocked tensor, zeros behind."""
    of = lanes(isa)
    batch, channels, height, width = planar(x).shape
    whole = x.new_zeros(batch, -(-channels // of) * of, height, width)
    whole[:, :channels] = planar(x)
    return whole.view(batch, -1, of, height, width).permute(0, 1, 3, 4, 2).contiguous()


def from_blocks(x: Tensor, channels: int) -> Tensor:
    """A blocked tensor as (batch, channels, height, width)."""
    return x.permute(0, 1, 4, 2, 3).flatten(1, 2)[:, :channels].contiguous()


def pack_direct(
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    blocked: bool = True,
    isa: str | None = None,
) -> Packed:
    """Pack weights [out, in, height, width] for the direct kernel, whose input is blocked or in NCHW."""
    outs, ins, height, width = weight.shape
    found, window = loaded(isa), (ctypes.c_int64 * 6)(height, width, *stride, *dilation)
    data = _room(found, found.archcost_direct_packed_floats(window, outs, ins))
    source = weight.detach().float().contiguous()
    found.archcost_direct_pack(window, outs, ins, int(blocked), source.data_ptr(), data.data_ptr())
    own = (*stride, *dilation, int(blocked))
    return Packed("direct", (height, width), outs, ins, own, found.archcost_isa().decode(), data)


def pack_grouped(
    weight: Tensor, groups: int, stride: Sequence[int], dilation: Sequence[int], isa: str | None = None
) -> Packed:
    """Pack weights [out, in of a group, height, width] for the grouped kernel."""
    outs, ins, height, width = weight.shape
    found, window = loaded(isa), WindowArguments(height, width, *stride, *dilation)
    data = _room(found, found.archcost_grouped_packed_floats(ctypes.byref(window), outs, ins))
    source = weight.detach().float().contiguous()
    found.archcost_grouped_pack(ctypes.byref(window), outs, ins, source.data_ptr(), data.data_ptr())
    own = (*stride, *dilation, groups)
    return Packed("grouped", (height, width), outs, ins * groups, own, found.archcost_isa().decode(), data)


def _room(found: ctypes.CDLL, floats: int) -> Tensor:
    data = torch.empty(floats)
    found.archcost_prefer_huge_pages(data.data_ptr(), 4 * floats)
    return data


class BlockedConvolution:
    """A convolution of inputs of one shape, its weights packed.

    The output is blocked, and so is the input, unless it is a `plain_input`: then it is contiguous, in NCHW.
    """

    def __init__(
        self,
        packed: Packed,
        shape: tuple[int, int, int, int],
        bias: Tensor | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
        clamp: tuple[float, float] | None = None,
        before: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """
        Args:
            packed: of `pack_direct`, `pack_grouped`, or of a kernel for tiles or depthwise convolutions.
            shape: of the input, (batch, channels, height, width).
            bias: (out_channels,).
            stride: vertical and horizontal.
            dilation: vertical and horizontal.
            padding: (above, below), (left, right).
            clamp: limits of the outputs.
            before: makes the input, a plain one of ``shape``, from what is given.
        """
        of = lanes(packed.isa)
        sizes = zip(shape[2:], padding, packed.taps, stride, dilation, strict=True)
        height, width = ((n + sum(side) - d * (k - 1) - 1) // s + 1 for n, side, k, s, d in sizes)
        if min(height, width) < 1:
            raise InputError(f"kernel: {packed.taps} taps do not fit the input of {shape}")
        self.packed, self.out_channels = packed, packed.out_channels
        self.plain_input = before is not None or (packed.kind == "direct" and not packed.own[-1])
        self._before = before
        given = images(shape, _contiguous(shape)) if self.plain_input else blocked_images(shape, of)
        self._given = shape if self.plain_input else _blocked_shape(shape, of)
        written = (shape[0], packed.out_channels, height, width)
        self._written = _blocked_shape(written, of)
        self._bias = None
        if bias is not None:
            self._bias = torch.zeros(-(-packed.out_channels // of) * of)
            self._bias[: packed.out_channels] = bias.detach()
        activation = ActivationArguments(0) if clamp is None else ActivationArguments(_CLAMP, *clamp)
        window = WindowArguments(*packed.taps, *stride, *dilation)
        places = (given, blocked_images(written, of))
        pads = padding[0][0], padding[1][0]
        name, self._arguments = _step(packed, places, window, pads, activation)
        self._last = 3 if name == "direct" else 4
        self._function = getattr(loaded(packed.isa), f"archcost_step_{name}")
        self._function.restype, self._function.argtypes = None, [c_void_p, c_void_p, c_int]

    def __call__(self, x: Tensor, threads: int | None = None) -> Tensor:
        """The output, blocked."""
        if self.plain_input:
            x = planar(x if self._before is None else self._before(x))
        if tuple(x.shape) != self._given or not x.is_contiguous() or x.dtype != torch.float32:
            raise InputError(
                f"kernel: expected a contiguous float32 input of {self._given}, got {tuple(x.shape)}"
            )
        y = torch.empty(self._written)
        places = (c_void_p * 9)(x.data_ptr(), self.packed.data.data_ptr())
        places[2] = None if self._bias is None else self._bias.data_ptr()
        places[self._last] = y.data_ptr()
        self._function(ctypes.byref(self._arguments), places, threads or torch.get_num_threads())
        return y


def _step(
    packed: Packed,
    places: tuple[Images, Images],
    window: WindowArguments,
    pads: tuple[int, int],
    activation: ActivationArguments,
) -> tuple[str, Structure]:
    """The step that executes a kind of packed weights, and its arguments."""
    problem = Problem(*places, *pads, 1, 0, -inf, inf)
    match packed.kind:
        case "direct":
            return "direct", DirectArguments(*places, Images(), window, *pads, 0, activation, -inf, inf)
        case "grouped":
            return "grouped", GroupedArguments(*places, window, *pads, packed.own[-1], activation)
        case "tiles":
            return "tiles", TilesArguments(*packed.own[:3], problem, activation)
        case "depthwise":
            return "fft_depthwise", FftDepthwiseArguments(*packed.taps, *packed.own, problem, activation)
        case "depthwise_direct":
            return "depthwise", DepthwiseArguments(*places, window, *pads, activation)
        case kind:
            raise InputError(f"kernel: the {kind} kernel does not read blocked tensors")


def _blocked_shape(shape: tuple[int, int, int, int], of: int) -> tuple[int, ...]:
    batch, channels, height, width = shape
    return batch, -(-channels // of), height, width, of


def _contiguous(shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    _, channels, height, width = shape
    return channels * height * width, height * width, width, 1


def blocked_images(shape: tuple[int, int, int, int], of: int) -> Images:
    """The C structure for a blocked tensor of images of this shape."""
    _, blocks, height, width, _ = _blocked_shape(shape, of)
    plane = height * width * of
    return Images(*shape, blocks * plane, 1, width * of, of, plane)
