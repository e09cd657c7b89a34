"""Tensors for the C interface: checks, layouts and padding."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from archcost.errors import ArchcostError, InputError
from archcost.kernels.loading import Images, library, why_not

__all__ = ["channels_together", "checked", "images", "loaded", "offsets", "planar", "readable", "sides"]

_FAILURES = {1: "no such tile", 2: "not enough memory"}


def loaded(name: str | None = None) -> ctypes.CDLL:
    """The library, or an error with the reason."""
    found = library(name)
    if found is None:
        raise ArchcostError(f"the compiled kernels cannot be used: {why_not()}")
    return found


def checked(failure: int) -> None:
    """Raise ArchcostError for a failure that the C interface returned."""
    if failure:
        raise ArchcostError(f"kernel: {_FAILURES.get(failure, f'failure {failure}')}")


def planar(x: Tensor) -> Tensor:
    """A 1-d input [batch, channels, length] as an image of one row; an image as it is."""
    if x.dim() not in (3, 4):
        raise InputError(f"kernel: the input needs 3 or 4 dimensions, got {tuple(x.shape)}")
    return x.unsqueeze(2) if x.dim() == 3 else x


def readable(x: Tensor, what: str = "input") -> Tensor:
    """The tensor itself where a kernel can read it: channels or columns next to each other; else a copy."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise InputError(f"kernel: the {what} must be float32 on the CPU, got {x.dtype} on {x.device}")
    if x.is_conj() or x.is_neg():
        return x.resolve_conj().resolve_neg()
    strides = x.stride()
    if min(strides, default=0) > 0 and (strides[1] == 1 or strides[3] == 1 or x.shape[3] == 1):
        return x
    return x.contiguous()


def offsets(bias: Tensor | None, channels: int) -> Tensor | None:
    """The bias as the kernel can read it."""
    if bias is None:
        return None
    if bias.shape != (channels,):
        raise InputError(f"kernel: bias must have {channels} values, got shape {tuple(bias.shape)}")
    if bias.dtype == torch.float32 and bias.is_contiguous():
        return bias
    return bias.detach().to(torch.float32).contiguous()


def images(shape: Sequence[int], strides: Sequence[int]) -> Images:
    """The C structure for images of this shape and strides.

    The channel stride is 1 only where the kernel is to read channels together.
    """
    batch, channel, row, column = strides
    if channels_together(shape, strides):
        return Images(*shape, batch, 1, row, column)
    # A channel stride of 1 means channels_last to the kernels: what is never stepped over can say 2.
    return Images(*shape, batch, channel if channel != 1 or shape[1] > 1 else 2, row, 1)


def channels_together(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether several channels are next to each other in memory, as in channels_last."""
    return strides[1] == 1 and shape[1] > 1


def sides(padding: int | Sequence[int | tuple[int, int]], axes: int) -> tuple[tuple[int, int], ...]:
    """Padding as (low, high) of each axis."""
    each = (padding,) * axes if isinstance(padding, int) else tuple(padding)
    pairs = tuple((side, side) if isinstance(side, int) else (side[0], side[1]) for side in each)
    if len(pairs) != axes or any(side < 0 for pair in pairs for side in pair):
        raise InputError(f"kernel: padding must be {axes} numbers or (low, high) pairs, got {padding!r}")
    return pairs
