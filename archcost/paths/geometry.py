"""Helpers of the paths: sizes, padding by any mode, weights by groups, convolutions no path can execute."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from types import EllipsisType

    from torch import Tensor

    Index = tuple[int | slice | EllipsisType, ...]

__all__ = [
    *("Axes", "by_groups", "cropped", "full_size", "padded", "padded_elements"),
    *("reduction_length", "refusal", "tap_windows", "trailing", "weight_shape"),
]

_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}

Axes = tuple[int, ...]


def weight_shape(spec: ConvSpec) -> Axes:
    """The shape of the weight in ``torch.nn.ConvNd`` or ``torch.nn.ConvTransposeNd``."""
    first, second = spec.out_channels, spec.in_channels
    if spec.transposed:
        first, second = second, first
    return (first, second // spec.groups, *spec.kernel_size)


def reduction_length(spec: ConvSpec) -> int:
    """The most products that are summed for an output."""
    taps: int = prod(spec.kernel_size)
    return spec.in_channels // spec.groups * taps


def full_size(spec: ConvSpec) -> Axes:
    """Output size of a transposed convolution before its padding is cut: (n - 1) * stride + extent."""
    sizes = zip(spec.input_size, spec.stride, spec.extent, strict=True)
    return tuple((n - 1) * s + e for n, s, e in sizes)


def refusal(spec: ConvSpec) -> str | None:
    """Why no path can execute this convolution, or None."""
    if spec.padding_mode not in _MODES:
        return f"padding_mode {spec.padding_mode!r} is none of {', '.join(map(repr, _MODES))}"
    if spec.padding_mode == "zeros":
        return None
    if spec.transposed:
        return f"a transposed convolution pads with zeros, not by {spec.padding_mode!r}"
    for n, sides in zip(spec.input_size, spec.padding, strict=True):
        most = {"reflect": n - 1, "circular": n}.get(spec.padding_mode, max(sides))
        if max(sides) > most:
            return f"padding {max(sides)} by {spec.padding_mode!r} needs more than the {n} pixels there are"
    return None


def padded(x: Tensor, spec: ConvSpec) -> Tensor:
    """The input with its padding written out, by the convolution's own mode."""
    import torch.nn.functional as F

    flat = [side for pair in reversed(spec.padding) for side in pair]
    return F.pad(x, flat, mode=_MODES[spec.padding_mode]) if any(flat) else x


def padded_elements(spec: ConvSpec) -> int:
    """Elements of the input with its padding written out; 0 where nothing is padded."""
    pairs = spec.padding
    if spec.transposed or not any(map(any, pairs)):
        return 0
    sizes = (n + lo + hi for n, (lo, hi) in zip(spec.input_size, pairs, strict=True))
    return spec.batch * spec.in_channels * prod(sizes)


def cropped(y: Tensor, spec: ConvSpec) -> Tensor:
    """The output of a transposed convolution, from its full size: padding cut away, output padding added."""
    import torch.nn.functional as F

    sizes = zip(spec.padding, spec.output_size, full_size(spec), strict=True)
    flat = [side for (lo, _), out, full in reversed(list(sizes)) for side in (-lo, lo + out - full)]
    return F.pad(y, flat) if any(flat) else y


def by_groups(weight: Tensor, spec: ConvSpec) -> Tensor:
    """The weight as (groups, out_channels / groups, in_channels / groups, *kernel_size)."""
    grouped: Tensor = weight.unflatten(0, (spec.groups, -1))
    return grouped.transpose(1, 2) if spec.transposed else grouped


def trailing(index: Iterable[int | slice]) -> Index:
    """An index of the last axes, all of those before them kept."""
    return (..., *index)


def tap_windows(spec: ConvSpec) -> list[tuple[Index, Index]]:
    """Each tap of the kernel, and the pixels under it at all positions, as indices of the last axes.

    The pixels are those of the padded input; where the convolution is transposed, of the full output.
    """
    positions = spec.input_size if spec.transposed else spec.output_size
    columns = (spec.dilation, spec.stride, positions)
    found = []
    for tap in product(*map(range, spec.kernel_size)):
        axes = zip(tap, *columns, strict=True)
        found.append(
            (trailing(tap), trailing(slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, s, n in axes))
        )
    return found
