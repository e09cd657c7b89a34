"""The options that every kernel takes, and what the C interface is told of a call."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TypedDict

import torch
from torch import Tensor

from archcost.errors import InputError
from archcost.kernels.loading import Convolution
from archcost.kernels.tensors import images, output_like, planar, readable, sides

__all__ = ["Call", "Padding", "convolution"]

Padding = int | Sequence[int | tuple[int, int]]


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


def convolution(
    x: Tensor, taps: tuple[int, int], channels: tuple[int, int], call: Call
) -> tuple[Tensor, Tensor, Convolution]:
    """The input as the kernel can read it, the empty output, and what is to be done between them."""
    axes = x.dim() - 2
    source = readable(planar(x.detach()))
    pads = sides(call.get("padding", 0), axes)
    if source.shape[1] != channels[0]:
        raise InputError(
            f"kernel: the weights are for {channels[0]} channels, the input has {source.shape[1]}"
        )
    (top, bottom), (left, right) = pads if axes == 2 else ((0, 0), *pads)
    height = source.shape[2] + top + bottom - taps[0] + 1
    width = source.shape[3] + left + right - taps[1] + 1
    if min(height, width, *source.shape) < 1:
        raise InputError(f"kernel: {taps[0]}x{taps[1]} taps do not fit the input of {tuple(x.shape)}")
    output = output_like(source, channels[1], height, width, call.get("memory_format"))
    threads = call.get("threads") or torch.get_num_threads()
    low, high = call.get("clamp") or (-inf, inf)
    return (
        source,
        output,
        Convolution(
            images(source), images(output), top, left, threads, call.get("block_tiles", 0), low, high
        ),
    )
