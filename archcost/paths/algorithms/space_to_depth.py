"""A strided convolution as one of stride 1: the pixels of each block of s by s become channels of one pixel.

A kernel of k taps becomes one of ceil(k / s) taps over s times as many channels an axis, its ends filled with
zeros. Against phases (see `archcost.paths.phases`) it multiplies by these zeros too, but it is a single
convolution, whose outputs need no adding.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod

import torch.nn.functional as F
from torch import Tensor

from archcost.paths.geometry import padded, padded_elements
from archcost.spec import ConvSpec

__all__ = ["blocks_of", "rearranged_elements", "rearranged_taps", "spread"]


@lru_cache(maxsize=1024)
def spread(spec: ConvSpec) -> ConvSpec | None:
    """The equal convolution of stride 1; None without stride, or if dilated, grouped or transposed."""
    strides = spec.stride
    if spec.transposed or spec.groups > 1 or max(strides) == 1 or max(spec.dilation) > 1:
        return None
    kernel = tuple(-(-k // s) for k, s in zip(spec.kernel_size, strides, strict=True))
    return replace(
        spec,
        in_channels=spec.in_channels * prod(strides),
        kernel_size=kernel,
        stride=1,
        padding=0,
        padding_mode="zeros",
        input_size=tuple(n + k - 1 for n, k in zip(spec.output_size, kernel, strict=True)),
    )


def blocks_of(x: Tensor, spec: ConvSpec) -> Tensor:
    """(batch, channels, *input_size) to the input of `spread`: (batch, channels * blocks, *size)."""
    instead = spread(spec)
    assert instead is not None
    if spec.padding_mode == "zeros":
        before, sizes = [low for low, _ in spec.padding], x.shape[2:]
    else:
        x = padded(x, spec)
        before, sizes = [0] * spec.axes, x.shape[2:]
    strides = spec.stride
    wanted = [n * s for n, s in zip(instead.input_size, strides, strict=True)]
    behind = [w - n - b for w, n, b in zip(wanted, sizes, before, strict=True)]
    flat = [side for pair in zip(reversed(before), reversed(behind), strict=True) for side in pair]
    return _rearranged(F.pad(x, flat) if any(flat) else x, strides, leading=2)


def rearranged_taps(taps: Tensor, spec: ConvSpec) -> Tensor:
    """(groups, out, in, *kernel_size) to the weights of `spread`."""
    kernel, strides = spec.kernel_size, spec.stride
    missing = [-k % s for k, s in zip(kernel, strides, strict=True)]
    filled = F.pad(taps, [side for m in reversed(missing) for side in (0, m)])
    return _rearranged(filled, strides, leading=3)


def rearranged_elements(spec: ConvSpec) -> int:
    """Elements of the input filled up to whole blocks, and once more with its blocks as channels."""
    instead = spread(spec)
    assert instead is not None
    written_out = 0 if spec.padding_mode == "zeros" else padded_elements(spec)
    return written_out + 2 * spec.batch * instead.in_channels * prod(instead.input_size)


def _rearranged(x: Tensor, strides: tuple[int, ...], leading: int) -> Tensor:
    """(..., channels, *size) to (..., channels * blocks, *size / strides)."""
    axes = len(strides)
    for axis, stride in enumerate(strides):
        x = x.unflatten(leading + 2 * axis, (-1, stride))
    outer = [leading + 2 * axis for axis in range(axes)]
    inner = [leading + 2 * axis + 1 for axis in range(axes)]
    return x.permute(*range(leading), *inner, *outer).flatten(leading - 1, leading - 1 + axes)
