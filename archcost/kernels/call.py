"""The options of a kernel's call, and the C structure that describes the call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import TypedDict

import torch
from torch import Tensor

from archcost.errors import InputError
from archcost.kernels.loading import Problem
from archcost.kernels.tensors import channels_together, images, planar, readable, sides

__all__ = ["CallOptions", "Padding", "Steps", "Window", "convolution", "window"]

Padding = int | Sequence[int | tuple[int, int]]
Steps = int | Sequence[int]
Window = tuple[int, int, int, int, int, int]
"""Taps, stride and dilation, each vertical and horizontal."""


class CallOptions(TypedDict, total=False):
    """The options of a kernel's call; every entry may be left out."""

    padding: Padding
    """Padding with zeros: a number, or for each spatial axis a number or (low, high)."""
    stride: Steps
    """For all spatial axes or each; must be 1 where a kernel takes no stride."""
    dilation: Steps
    """For all spatial axes or each; must be 1 where a kernel takes no dilation."""
    clamp: tuple[float, float] | None
    """Outputs are limited to (low, high), after the bias: (0, inf) is ReLU, (0, 6) is ReLU6."""
    memory_format: torch.memory_format | None
    """The layout of the output; by default that of the input."""
    threads: int | None
    """The most threads; by default `torch.get_num_threads`."""
    block_tiles: int
    """The number of tiles computed at a time; 0, the default, leaves it to the kernel."""


def window(taps: tuple[int, int], options: CallOptions, axes: int) -> Window:
    """Taps, stride and dilation of the window; for a 1-d convolution along the row."""
    return (*taps, *_steps(options.get("stride", 1), axes), *_steps(options.get("dilation", 1), axes))


def _steps(of: Steps, axes: int) -> tuple[int, int]:
    if isinstance(of, int):
        return (of, of) if axes == 2 else (1, of)
    if len(of) != axes:
        raise InputError(f"kernel: stride and dilation must be {axes} numbers, got {tuple(of)}")
    return (of[0], of[1]) if axes == 2 else (1, of[0])


def convolution(
    x: Tensor, taps: tuple[int, int], channels: tuple[int, int], options: CallOptions, *, steps: bool = False
) -> tuple[Tensor, Tensor, Problem]:
    """The input in a layout that the kernel reads, the empty output, and the C structure.

    Args:
        x: (batch, channels, length) or (batch, channels, height, width).
        taps: of the kernel, vertical and horizontal.
        channels: input and output channels.
        options: of the call.
        steps: whether the kernel takes a stride and a dilation.
    """
    source = readable(planar(x))
    padding, axes = options.get("padding", 0), x.dim() - 2
    problem, shape, memory_format = _problem(
        tuple(source.shape),
        source.stride(),
        axes,
        window(taps, options, axes),
        steps,
        channels,
        padding if isinstance(padding, int) else tuple(padding),
        options.get("clamp"),
        options.get("memory_format"),
        options.get("threads") or torch.get_num_threads(),
        options.get("block_tiles", 0),
    )
    return source, torch.empty(shape, dtype=torch.float32, memory_format=memory_format), problem


@lru_cache(maxsize=1024)
def _problem(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    axes: int,
    window: Window,
    steps: bool,
    channels: tuple[int, int],
    padding: Padding,
    clamp: tuple[float, float] | None,
    memory_format: torch.memory_format | None,
    threads: int,
    block_tiles: int,
) -> tuple[Problem, tuple[int, ...], torch.memory_format]:
    """The C structure, output shape and layout; cached, because a small layer takes less time than this."""
    if shape[1] != channels[0]:
        raise InputError(f"kernel: the weights are for {channels[0]} channels, the input has {shape[1]}")
    pads = sides(padding, axes)
    (top, bottom), (left, right) = pads if axes == 2 else ((0, 0), *pads)
    taps, stride, dilation = window[:2], window[2:4], window[4:]
    if min(*stride, *dilation) < 1 or (not steps and max(*stride, *dilation) > 1):
        allowed = "positive" if steps else "1: this kernel has no others"
        raise InputError(f"kernel: stride and dilation must be {allowed}; got {stride} and {dilation}")
    height = (shape[2] + top + bottom - (taps[0] - 1) * dilation[0] - 1) // stride[0] + 1
    width = (shape[3] + left + right - (taps[1] - 1) * dilation[1] - 1) // stride[1] + 1
    if not all(shape):
        raise InputError(f"kernel: there is nothing in an input of {shape}")
    if min(height, width) < 1:
        raise InputError(f"kernel: {taps[0]}x{taps[1]} taps do not fit the input of {shape}")
    if memory_format is None:
        memory_format = torch.channels_last if channels_together(shape, strides) else torch.contiguous_format
    result = (shape[0], channels[1], height, width)
    output = torch.empty(result, device="meta", memory_format=memory_format)
    low, high = clamp or (-inf, inf)
    places = images(shape, strides), images(result, output.stride())
    return Problem(*places, top, left, threads, block_tiles, low, high), result, memory_format
