"""Descriptions of the pooling modules of ``torch.nn``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from archcost.errors import Refusal
from archcost.spec import ConvSpec

__all__ = ["POOLS", "Pooling", "pool_of"]

_AVERAGE = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_MAX = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_ADAPTIVE: dict[type[nn.Module], str] = {
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), "average"),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), "max"),
}
POOLS = tuple(kind.__name__ for kind in (*_AVERAGE, *_MAX, *_ADAPTIVE))
"""Class names of the known poolings."""


@dataclass(frozen=True)
class Pooling:
    """A pooling at the size of its input."""

    kind: str
    """The kind, ``average`` or ``max``."""
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool
    """Whether windows count that begin inside and end outside (``ceil_mode``)."""
    keeps_constants: bool
    """Whether a constant map keeps its value, also at the border: averages whose weights sum to 1."""
    divisor: int
    """Divisor of an average over a window that lies inside."""
    adaptive: bool
    """Whether the pooling is adaptive: kernel and stride hold for this size alone."""

    def spec(self, channels: int, size: Sequence[int], output_size: Sequence[int], batch: int) -> ConvSpec:
        """The depthwise convolution with the shapes of the pooling, for an input of some size."""
        high = list(self.padding)
        if self.ceil:  # as much as its last windows need
            ends = zip(size, output_size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
            high = [max(0, (out - 1) * s + d * (k - 1) + 1 - n - p) for n, out, k, s, p, d in ends]
        return ConvSpec(
            channels,
            channels,
            self.kernel,
            stride=self.stride,
            padding=list(zip(self.padding, high, strict=True)),
            dilation=self.dilation,
            groups=channels,
            bias=False,
            input_size=tuple(size),
            batch=batch,
        )


def pool_of(module: nn.Module, input_size: Sequence[int], output_size: Sequence[int]) -> Pooling | Refusal:
    """The description of a pooling; or why it cannot be moved, in words that follow its name."""
    axes, ones = len(input_size), (1,) * len(input_size)
    if type(module) not in (*_AVERAGE, *_MAX, *_ADAPTIVE):
        return Refusal(f"is a {type(module).__name__}, which is not a known pooling")
    kind = _ADAPTIVE.get(type(module))
    if kind is not None and any(n % out for n, out in zip(input_size, output_size, strict=True)):
        sizes = " to ".join("x".join(map(str, size)) for size in (input_size, output_size))
        return Refusal(f"has windows of different sizes, {sizes}")
    if getattr(module, "return_indices", False):
        return Refusal("gives indices too")
    if isinstance(module, _MAX):
        kernel, padding = _each(module.kernel_size, axes), _each(module.padding, axes)
        stride = kernel if module.stride is None else _each(module.stride, axes)
        dilation = _each(module.dilation, axes)
        return Pooling("max", kernel, stride, padding, dilation, bool(module.ceil_mode), False, 1, False)
    if isinstance(module, _AVERAGE):
        kernel, padding = _each(module.kernel_size, axes), _each(module.padding, axes)
        stride = kernel if module.stride is None else _each(module.stride, axes)
        divisor = getattr(module, "divisor_override", None)
        keeps = divisor is None and (not any(padding) or not module.count_include_pad)
        divisor = prod(kernel) if divisor is None else int(divisor)
        ceil = bool(module.ceil_mode)
        return Pooling("average", kernel, stride, padding, ones, ceil, keeps, divisor, False)
    kernel = tuple(n // out for n, out in zip(input_size, output_size, strict=True))
    kind = _ADAPTIVE[type(module)]
    zeros = (0,) * axes
    return Pooling(kind, kernel, kernel, zeros, ones, False, kind == "average", prod(kernel), True)


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value) * (axes // len(tuple(value)))
