"""The kernel that a chain of convolutions composes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from types import EllipsisType

import torch

from archcost.errors import RewriteError
from archcost.spec import ConvSpec

__all__ = ["Index", "apart", "composed", "dense", "spread", "stacked", "steps_of", "windows"]


Index = tuple["int | slice | EllipsisType", ...]
"""Indices into a tensor."""


def apart(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """A weight with its groups as an axis of their own: (groups, out / groups, in / groups, *kernel_size)."""
    return weight.reshape(groups, -1, *weight.shape[1:])


def dense(weight: torch.Tensor, groups: int, outer: int = 1) -> torch.Tensor:
    """A grouped weight as a kernel of ``outer`` groups, with zeros between the inner groups.

    (out, in / groups, *k) -> (outer, out / outer, in / outer, *k), where ``outer`` divides ``groups``.
    """
    inner = groups // outer
    parts = weight.reshape(outer, inner, -1, *weight.shape[1:])  # (outer, inner, o, i, *k)
    outs, ins = parts.shape[2:4]
    full = parts.new_zeros(outer, inner, outs, inner, ins, *parts.shape[4:])
    index = torch.arange(inner, device=weight.device)
    full[:, index, :, index] = parts.transpose(0, 1)
    return full.reshape(outer, inner * outs, inner * ins, *parts.shape[4:])


def composed(kernels: Sequence[torch.Tensor], specs: Sequence[ConvSpec], groups: int = 1) -> torch.Tensor:
    """The kernel of the single convolution that computes a chain; differentiable.

    A tap t of the second stage sees the first stage's output ``stride * dilation * t`` further on, so::

        kernel[o, i, x] = sum over m, t of second[o, m, t] * first[m, i, x - stride * dilation * t]

    Args:
        kernels: the weights of the stages, (out, in / groups, *kernel_size) each.
        specs: the convolutions of the stages; strides and dilations are read, paddings are not.
        groups: number of groups of the composed kernel.

    Returns:
        (groups, out / groups, in / groups, *extent), with every pixel of the extent: zeros between the taps
        of a dilated kernel.
    """
    total: torch.Tensor | None = None
    for kernel, spec, step in zip(kernels, specs, steps_of(specs), strict=True):
        if total is None:
            total = spread(dense(kernel, spec.groups, groups), step)
        else:
            total = stacked(kernel, spec.groups, total, step)
    assert total is not None
    return total


def steps_of(specs: Sequence[ConvSpec]) -> list[tuple[int, ...]]:
    """The distance between the taps of each stage in pixels of the chain's input, by axis.

    Raises:
        RewriteError: a stage is transposed.
    """
    jump = (1,) * len(specs[0].input_size)
    steps: list[tuple[int, ...]] = []
    for spec in specs:
        if spec.transposed:
            raise RewriteError("a transposed convolution cannot be composed with others")
        steps.append(tuple(j * d for j, d in zip(jump, spec.dilation, strict=True)))
        jump = tuple(j * s for j, s in zip(jump, spec.stride, strict=True))
    return steps


def stacked(weight: torch.Tensor, groups: int, first: torch.Tensor, step: tuple[int, ...]) -> torch.Tensor:
    """The composed kernel ``first`` followed by another stage.

    Args:
        weight: (out, in / groups, *taps) of the stage, its taps ``step`` pixels apart.
        groups: number of groups of the stage; a multiple of G.
        first: (G, in / G, I, *extent).

    Returns:
        (G, out / G, I, *extent).
    """
    outer, _, ins, *size = first.shape
    second = apart(weight, groups)  # (groups, o, m, *taps)
    flat = first.reshape(groups, second.shape[2], -1)
    taps = second.shape[3:]
    extent = [(t - 1) * s + x for t, s, x in zip(taps, step, size, strict=True)]
    rows = second.flatten(3).permute(0, 3, 1, 2).flatten(1, 2)  # (groups, taps * o, m)
    parts = (rows @ flat).reshape(groups, prod(taps), -1, ins, *size)
    total = first.new_zeros(groups, second.shape[1], ins, *extent)
    for part, (_, there) in zip(parts.unbind(1), windows(taps, step, size), strict=True):
        total[there] += part
    return total.reshape(outer, -1, ins, *extent)


def windows(taps: Sequence[int], step: Sequence[int], size: Sequence[int]) -> Iterator[tuple[Index, Index]]:
    """Indices of each tap, and of the window of ``size`` pixels that begins there with taps ``step``
    apart."""
    for tap in product(*map(range, taps)):
        starts = [t * s for t, s in zip(tap, step, strict=True)]
        there = [slice(a, a + x) for a, x in zip(starts, size, strict=True)]
        yield (Ellipsis, *tap), (Ellipsis, *there)


def spread(kernel: torch.Tensor, step: Sequence[int]) -> torch.Tensor:
    """A kernel with its taps ``step`` pixels apart and zeros between."""
    if all(one == 1 for one in step):
        return kernel
    size = [(k - 1) * s + 1 for k, s in zip(kernel.shape[3:], step, strict=True)]
    wide = kernel.new_zeros(*kernel.shape[:3], *size)
    taps: Index = (Ellipsis, *(slice(None, None, s) for s in step))
    wide[taps] = kernel
    return wide
