"""The options that every kernel takes, and what the C interface is told of a call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import TypedDict

import torch
from torch import Tensor

from archcost.errors import InputError
from archcost.kernels.loading import Convolution
from archcost.kernels.tensors import channels_together, images, planar, readable, sides

__all__ = ["Call", "Padding", "Steps", "convolution", "steps"]

Padding = int | Sequence[int | tuple[int, int]]
Steps = int | Sequence[int]


class Call(TypedDict, total=False):
    """How a kernel is to be called; every entry may be left out."""

    padding: Padding
    """Of zeros, for each spatial axis a number or (low, high)."""
    clamp: tuple[float, float] | None
    """Outputs are limited to (low, high), after the bias: (0, inf) is ReLU, (0, 6) is ReLU6."""
    memory_format: torch.memory_format | None
    """Of the output; by default that of the input."""
    threads: int | None
    """At most so many; by default `torch.get_num_threads`."""
    block_tiles: int
    """How many tiles are worked on at a time; 0, the default, leaves it to the kernel."""


def steps(of: Steps, axes: int) -> tuple[int, int]:
    """A stride or dilation, vertical and horizontal; that of a 1-d convolution lies along the row."""
    each = (of,) * axes if isinstance(of, int) else tuple(of)
    if len(each) != axes or min(each) < 1:
        raise InputError(f"kernel: stride and dilation must be {axes} positive numbers, got {of!r}")
    return (each[0], each[1]) if axes == 2 else (1, each[0])


def convolution(
    x: Tensor,
    taps: tuple[int, int],
    channels: tuple[int, int],
    call: Call,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> tuple[Tensor, Tensor, Convolution]:
    """The input as the kernel can read it, the empty output, and what is to be done between them."""
    source = readable(planar(x))
    padding = call.get("padding", 0)
    problem, shape, memory_format = _problem(
        tuple(source.shape),
        source.stride(),
        x.dim() - 2,
        taps,
        stride,
        dilation,
        channels,
        padding if isinstance(padding, int) else tuple(padding),
        call.get("clamp"),
        call.get("memory_format"),
        call.get("threads") or torch.get_num_threads(),
        call.get("block_tiles", 0),
    )
    return source, torch.empty(shape, dtype=torch.float32, memory_format=memory_format), problem


@lru_cache(maxsize=1024)
def _problem(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    axes: int,
    taps: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    channels: tuple[int, int],
    padding: Padding,
    clamp: tuple[float, float] | None,
    memory_format: torch.memory_format | None,
    threads: int,
    block_tiles: int,
) -> tuple[Convolution, tuple[int, ...], torch.memory_format]:
    """Kept, since a small layer takes less time than putting this together."""
    if shape[1] != channels[0]:
        raise InputError(f"kernel: the weights are for {channels[0]} channels, the input has {shape[1]}")
    pads = sides(padding, axes)
    (top, bottom), (left, right) = pads if axes == 2 else ((0, 0), *pads)
    height = (shape[2] + top + bottom - (taps[0] - 1) * dilation[0] - 1) // stride[0] + 1
    width = (shape[3] + left + right - (taps[1] - 1) * dilation[1] - 1) // stride[1] + 1
    if min(height, width, *shape) < 1:
        raise InputError(f"kernel: {taps[0]}x{taps[1]} taps do not fit the input of {shape}")
    if memory_format is None:
        memory_format = torch.channels_last if channels_together(shape, strides) else torch.contiguous_format
    result = (shape[0], channels[1], height, width)
    output = torch.empty(result, device="meta", memory_format=memory_format)
    low, high = clamp or (-inf, inf)
    places = images(shape, strides), images(result, output.stride())
    return Convolution(*places, top, left, threads, block_tiles, low, high), result, memory_format
