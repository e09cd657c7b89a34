"""Pre-bound calls of kernels: everything but the tensors is settled beforehand.

For a small layer, preparing a call and checking strides takes longer than the layer itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from archcost.kernels.call import CallOptions, convolution
from archcost.kernels.loading import Problem
from archcost.kernels.packed import KINDS, Packed
from archcost.kernels.tensors import channels_together, checked, images, loaded, offsets, readable

__all__ = ["Bound", "bound", "max_pool"]


class Bound:
    """A pre-bound call for float32 images on the CPU of fixed shape and strides, which the caller checks.

    No gradients are recorded, and PyTorch's dispatcher does not see the call.
    """

    def __init__(
        self,
        function: Callable[..., int],
        numbers: Sequence[int],
        problem: Problem,
        output: Tensor,
        weights: Tensor,
        bias: Tensor | None,
    ) -> None:
        self.shape, self.strides = output.shape, output.stride()
        # The tensors behind the addresses must live as long.
        self._alive = (problem, weights, bias)
        places = [None if one is None else one.data_ptr() for one in (weights, bias)]
        self._function, self._settled = function, (*numbers, ctypes.pointer(problem))
        self._weights = tuple(places)

    def __call__(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """The output; ``addend``, with the output's shape, strides and dtype, is added before the clamp."""
        y = torch.empty_strided(self.shape, self.strides, dtype=torch.float32)
        self.write(x, y.data_ptr(), addend)
        return y

    def write(self, x: Tensor, place: int, addend: Tensor | None = None) -> None:
        """Write the output to an address, with the output's strides."""
        there = None if addend is None else addend.data_ptr()
        failure = self._function(*self._settled, x.data_ptr(), *self._weights, there, place)
        if failure:
            checked(failure)

    def fits(self, addend: Tensor) -> bool:
        """Whether it has the shape, strides and dtype of the output."""
        alike = addend.shape == self.shape and addend.stride() == self.strides
        return alike and addend.dtype is torch.float32 and not addend.is_neg()


def bound(
    packed: Packed, x: Tensor, bias: Tensor | None, options: CallOptions, among: int | None = None
) -> Bound | None:
    """A pre-bound call for inputs with the shape and strides of ``x``; None where the kernel has none.

    Args:
        packed: packed weights.
        x: a float32 image on the CPU, (batch, channels, height, width).
        bias: (out_channels,).
        options: of the kernel.
        among: channels of the channels_last tensor of which the output is a slice; None: it is no slice.
    """
    if x.dim() != 4 or readable(x) is not x:
        return None
    kind = KINDS[packed.kind]
    if packed.kind in ("tiles", "im2col"):
        name = f"archcost_{packed.kind}_added"
    elif kind.adds and _stays_last(x, options):
        name = f"archcost_{packed.kind}"
    else:
        return None
    channels = (packed.in_channels, packed.out_channels)
    _, output, problem = convolution(x, packed.taps, channels, options, steps=kind.steps)
    if among is not None:
        output, problem = _slice(output, among, problem)
    added = offsets(bias, packed.out_channels)
    numbers = kind.numbers(packed, options, x)
    return Bound(getattr(loaded(packed.isa), name), numbers, problem, output, packed.data, added)


def _stays_last(x: Tensor, options: CallOptions) -> bool:
    """Whether input and output are in channels_last."""
    last = channels_together(x.shape, x.stride())
    return last and options.get("memory_format") in (None, torch.channels_last)


def _slice(output: Tensor, among: int, problem: Problem) -> tuple[Tensor, Problem]:
    """A meta tensor with the strides of the slice, and the problem with its output there."""
    batch, channels, *size = output.shape
    assert 1 < channels <= among
    whole = torch.empty((batch, among, *size), device="meta", memory_format=torch.channels_last)
    output = whole[:, :channels]
    limits = problem.threads, problem.block_tiles, problem.low, problem.high
    places = problem.input, images(output.shape, output.stride())
    return output, Problem(*places, problem.pad_top, problem.pad_left, *limits)


def max_pool(x: Tensor, size: tuple[int, int], numbers: tuple[int, ...], padding: tuple[int, int]) -> Tensor:
    """Max pooling of images in channels_last; NaN wins.

    Args:
        x: (batch, channels, height, width) in float32.
        size: rows and columns of the output.
        numbers: taps, strides and dilations, each vertical and horizontal.
        padding: above and at the left.
    """
    found: Callable[..., int] = loaded().archcost_max_pool
    shape = (x.shape[0], x.shape[1], *size)
    y = torch.empty(shape, dtype=torch.float32, memory_format=torch.channels_last)
    places = images(tuple(x.shape), x.stride()), images(shape, y.stride())
    assert channels_together(x.shape, x.stride())
    problem = Problem(*places, *padding, torch.get_num_threads(), 0, 0.0, 0.0)
    checked(found(*numbers, problem, x.data_ptr(), y.data_ptr()))
    return y
