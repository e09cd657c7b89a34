"""The kernels for paths: called directly, or as operators where PyTorch looks on.

``archcost::tiles`` and ``archcost::depthwise`` are what ``torch.compile``, ``torch.export`` and dispatch
modes see of them. They record no gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archcost.kernels import tiles
from archcost.kernels.by_fourier import PackedDepthwise, depthwise
from archcost.kernels.tensors import channels_together, planar, readable, sides
from archcost.kernels.tiles import PackedTiles

__all__ = ["convolve"]

Pairs = tuple[tuple[int, int], ...]


def convolve(
    x: Tensor,
    packed: PackedTiles | PackedDepthwise | tuple[PackedTiles, ...],
    bias: Tensor | None = None,
    *,
    padding: Pairs,
    clamp: tuple[float, float] | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    """The convolution by the kernel that its weights were packed for; padding as (low, high) of each axis.

    Of several packed, each has its share of the channels.
    """
    if isinstance(packed, tuple):
        return _by_groups(x, packed, bias, padding, clamp, memory_format)
    how = _as_operator if _is_watched(x) else _directly
    return how(x, packed, bias, padding, clamp, memory_format)


def _directly(
    x: Tensor,
    packed: PackedTiles | PackedDepthwise,
    bias: Tensor | None,
    padding: Pairs,
    clamp: tuple[float, float] | None,
    memory_format: torch.memory_format | None,
) -> Tensor:
    if isinstance(packed, PackedDepthwise):
        return depthwise(x, packed, bias, padding=padding, clamp=clamp, memory_format=memory_format)
    return tiles.run(x, packed, bias, {"padding": padding, "clamp": clamp, "memory_format": memory_format})


def _by_groups(
    x: Tensor,
    packed: tuple[PackedTiles, ...],
    bias: Tensor | None,
    padding: Pairs,
    clamp: tuple[float, float] | None,
    memory_format: torch.memory_format | None,
) -> Tensor:
    xs = x.chunk(len(packed), 1)
    biases = [None] * len(packed) if bias is None else bias.chunk(len(packed))
    parts = [
        convolve(x, one, bias, padding=padding, clamp=clamp, memory_format=memory_format)
        for x, one, bias in zip(xs, packed, biases, strict=True)
    ]
    y = torch.cat(parts, 1)
    return y if memory_format is None else y.contiguous(memory_format=memory_format)


def _is_watched(x: Tensor) -> bool:
    """Whether somebody records what happens to tensors, or they are not what they seem."""
    return (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.jit.is_tracing()
    )


def _as_operator(
    x: Tensor,
    packed: PackedTiles | PackedDepthwise,
    bias: Tensor | None,
    padding: Pairs,
    clamp: tuple[float, float] | None,
    memory_format: torch.memory_format | None,
) -> Tensor:
    flat = [side for pair in padding for side in pair]
    limits = None if clamp is None else [float(limit) for limit in clamp]
    together = None if memory_format is None else memory_format == torch.channels_last
    bias = None if bias is None else bias.detach()
    if isinstance(packed, PackedDepthwise):
        numbers = [*packed.taps, packed.size]
        return _depthwise(x, packed.data, bias, numbers, packed.isa, flat, limits, together)
    numbers = [*packed.name, *packed.outputs, *packed.taps, packed.out_channels]
    return _tiles(x, packed.data, bias, numbers, packed.isa, flat, limits, together)


@torch.library.custom_op("archcost::tiles", mutates_args=(), device_types="cpu")
def _tiles(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    numbers: Sequence[int],
    isa: str,
    padding: Sequence[int],
    clamp: Sequence[float] | None,
    channels_last: bool | None,
) -> Tensor:
    """``numbers`` are those of `PackedTiles`: name, outputs, taps, output channels."""
    family, first, second, out_height, out_width, height, width, channels = numbers
    weights = PackedTiles(
        (family, first, second), (out_height, out_width), (height, width), channels, x.shape[1], isa, packed
    )
    return _directly(
        x,
        weights,
        bias,
        _pairs(padding),
        _limits(clamp),
        None if channels_last is None else _layout(channels_last),
    )


@_tiles.register_fake
def _(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    numbers: Sequence[int],
    isa: str,
    padding: Sequence[int],
    clamp: Sequence[float] | None,
    channels_last: bool | None,
) -> Tensor:
    return _empty(x, (numbers[5], numbers[6]), numbers[7], padding, channels_last)


@torch.library.custom_op("archcost::depthwise", mutates_args=(), device_types="cpu")
def _depthwise(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    numbers: Sequence[int],
    isa: str,
    padding: Sequence[int],
    clamp: Sequence[float] | None,
    channels_last: bool | None,
) -> Tensor:
    """``numbers`` are those of `PackedDepthwise`: taps, size of the transform."""
    height, width, size = numbers
    weights = PackedDepthwise((height, width), size, x.shape[1], isa, packed)
    return _directly(
        x,
        weights,
        bias,
        _pairs(padding),
        _limits(clamp),
        None if channels_last is None else _layout(channels_last),
    )


@_depthwise.register_fake
def _(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    numbers: Sequence[int],
    isa: str,
    padding: Sequence[int],
    clamp: Sequence[float] | None,
    channels_last: bool | None,
) -> Tensor:
    return _empty(x, (numbers[0], numbers[1]), x.shape[1], padding, channels_last)


def _empty(
    x: Tensor, taps: tuple[int, int], channels: int, padding: Sequence[int], channels_last: bool | None
) -> Tensor:
    """An output of the shape and layout that the kernel gives."""
    source = readable(planar(x))
    (top, bottom), (left, right) = ((0, 0), *_pairs(padding))[-2:]
    height = source.shape[2] + top + bottom - taps[0] + 1
    width = source.shape[3] + left + right - taps[1] + 1
    if channels_last is None:
        channels_last = channels_together(source.shape, source.stride())
    shape = (x.shape[0], channels, height, width)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(channels_last))
    return y.squeeze(2) if x.dim() == 3 else y


def _pairs(padding: Sequence[int]) -> Pairs:
    return sides(list(zip(padding[::2], padding[1::2], strict=True)), len(padding) // 2)


def _limits(clamp: Sequence[float] | None) -> tuple[float, float] | None:
    return None if clamp is None else (clamp[0], clamp[1])


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
