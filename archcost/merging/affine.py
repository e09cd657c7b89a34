"""Affine: what a single convolution computes, put together of several. On paper, or with the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import gcd
from typing import Any

import torch

from archcost.errors import Refusal, RewriteError
from archcost.merging.compose import composed, dense
from archcost.spec import ConvSpec

__all__ = ["Affine", "affine", "identity"]

WeightAndBias = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class Affine:
    """Output position p of an axis sums taps at ``p * stride + offset``; a constant a channel comes to that.

    Of n pixels it makes ``(n + surplus) // stride + 1`` positions.
    """

    in_channels: int
    out_channels: int
    groups: int
    stride: tuple[int, ...]
    offsets: tuple[tuple[int, ...], ...]
    """Of each axis, in order."""
    surplus: tuple[int, ...]
    mode: str
    """How the input is continued where taps lie outside; "zeros" too where none do."""
    shifted: bool
    """It adds a constant a channel."""
    kernel: torch.Tensor | None = field(default=None, compare=False, repr=False)
    """In float64, (out_channels, in_channels / groups, *extent), with every pixel of the extent."""
    bias: torch.Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Pixels outside that it looks at, before and behind."""
        return tuple((-o[0], c + o[-1] + 1) for o, c in zip(self.offsets, self.surplus, strict=True))

    @property
    def padded(self) -> bool:
        return any(low or high for low, high in self.padding)

    @property
    def dilation(self) -> tuple[int, ...]:
        """The step that divides the distances of all taps."""
        return tuple(max(1, gcd(*(x - o[0] for x in o))) for o in self.offsets)

    def spec(self, input_size: Sequence[int], batch: int = 1) -> ConvSpec:
        """The one convolution, for an input of that size."""
        pairs = zip(self.offsets, self.dilation, strict=True)
        return ConvSpec(
            self.in_channels,
            self.out_channels,
            tuple((o[-1] - o[0]) // d + 1 for o, d in pairs),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.mode if self.padded else "zeros",
            bias=self.shifted,
            input_size=tuple(input_size),
            batch=batch,
        )

    def weights(self) -> WeightAndBias:
        """Weight and bias of that convolution, in float64."""
        assert self.kernel is not None
        taken: Any = (..., *(slice(None, None, d) for d in self.dilation))
        bias = self.bias
        if self.shifted and bias is None:
            bias = self.kernel.new_zeros(self.out_channels)
        return self.kernel[taken].contiguous(), bias if self.shifted else None

    def convolved(self, spec: ConvSpec, weights: WeightAndBias | None = None) -> Affine | Refusal:
        """What follows after a convolution of this; or why a single one does not do that.

        Padding lies around what the first one gave: only where that is pointwise and adds nothing is it
        the same as padding around the input.
        """
        then = affine(spec, weights)
        pointwise = not self.padded and all(o == (0,) for o in self.offsets)
        if then.padded and not pointwise:
            return Refusal(
                "pads what the layer before it gave, which sees neighbours: at the border that is no single "
                "convolution"
            )
        if then.padded and then.mode == "zeros" and self.shifted:
            return Refusal(
                "pads with zeros what the layer before it gave, where that layer adds a bias: at the border "
                "that is no single convolution"
            )
        if then.padded and then.mode != "zeros" and max(self.stride) > 1:
            return Refusal(
                f"pads by {then.mode} what a strided layer gave, which is not how the input goes on"
            )
        groups = gcd(self.groups, then.groups)
        pairs = list(zip(self.offsets, then.offsets, self.stride, strict=True))
        axes = zip(self.surplus, then.surplus, self.stride, strict=True)
        made = replace(
            self,
            out_channels=then.out_channels,
            groups=groups,
            stride=tuple(a * b for a, b in zip(self.stride, then.stride, strict=True)),
            offsets=tuple(tuple(sorted({x + s * y for x in a for y in b})) for a, b, s in pairs),
            surplus=tuple(c + s * (1 + d) for c, d, s in axes),
            mode=then.mode if then.padded else self.mode,
            shifted=self.shifted or then.shifted,
        )
        if self.kernel is None or then.kernel is None:
            return made
        specs = [
            ConvSpec(one.in_channels, one.out_channels, tuple(one.kernel.shape[2:]), one.stride,
                     groups=one.groups, input_size=tuple(one.kernel.shape[2:]))
            for one in (self, then)
            if one.kernel is not None
        ]  # fmt: skip
        kernel = composed([self.kernel, then.kernel], specs, groups)
        bias = then.bias
        if self.bias is not None:
            taps = dense(then.kernel, then.groups, 1)[0].flatten(2).sum(2)
            bias = taps @ self.bias + (0 if bias is None else bias)
        return replace(made, kernel=kernel.reshape(-1, *kernel.shape[2:]), bias=bias)

    def scaled(self, scale: torch.Tensor | None, shift: torch.Tensor | None, shifts: bool = True) -> Affine:
        """Times a factor and plus a shift, one of each a channel."""
        made = replace(self, shifted=self.shifted or shifts)
        if self.kernel is None or scale is None:
            return made
        bias = None if self.bias is None else self.bias * scale
        if shift is not None:
            bias = shift + (0 if bias is None else bias)
        return replace(
            made, kernel=self.kernel * scale.reshape(-1, *(1,) * (self.kernel.dim() - 1)), bias=bias
        )

    def plus(self, other: Affine) -> Affine | Refusal:
        """The sum of both; or why it is no single convolution of the input."""
        if (self.stride, self.surplus) != (other.stride, other.surplus):
            return Refusal(
                f"adds branches whose padding or stride does not align: {_said(self)} and {_said(other)} lie "
                f"differently over the input"
            )
        if self.padded and other.padded and self.mode != other.mode:
            return Refusal(f"adds branches that pad by {self.mode} and by {other.mode}")
        if (self.in_channels, self.out_channels) != (other.in_channels, other.out_channels):
            return Refusal("adds branches that have not the same channels")
        made = replace(
            self,
            groups=gcd(self.groups, other.groups),
            offsets=tuple(tuple(sorted({*a, *b})) for a, b in zip(self.offsets, other.offsets, strict=True)),
            mode=self.mode if self.padded else other.mode,
            shifted=self.shifted or other.shifted,
        )
        if self.kernel is None or other.kernel is None:
            return made
        biases = [one for one in (self.bias, other.bias) if one is not None]
        kernel = self._within(made) + other._within(made)
        return replace(made, kernel=kernel, bias=sum(biases[1:], biases[0]) if biases else None)

    def _within(self, whole: Affine) -> torch.Tensor:
        """The kernel in the groups and on the grid of a sum that it is part of."""
        assert self.kernel is not None
        spread = dense(self.kernel, self.groups, whole.groups)
        spread = spread.reshape(-1, *spread.shape[2:])
        extent = [o[-1] - o[0] + 1 for o in whole.offsets]
        full = spread.new_zeros(*spread.shape[:2], *extent)
        pairs = zip(self.offsets, whole.offsets, strict=True)
        here: Any = (..., *(slice(o[0] - w[0], o[-1] - w[0] + 1) for o, w in pairs))
        full[here] = spread
        return full


def affine(spec: ConvSpec, weights: WeightAndBias | None = None) -> Affine:
    """One convolution; its weight and bias where numbers are wanted.

    Raises:
        RewriteError: it is transposed.
    """
    if spec.transposed:
        raise RewriteError("a transposed convolution is not put together with others")
    sizes = zip(spec.kernel_size, spec.dilation, spec.padding, spec.extent, strict=True)
    axes = [(tuple(t * d - low for t in range(k)), low + high - e) for k, d, (low, high), e in sizes]
    kernel = bias = None
    if weights is not None:
        kernel = composed([weights[0].detach().double()], [replace(spec, stride=1)], spec.groups)
        kernel = kernel.reshape(-1, *kernel.shape[2:])
        bias = None if weights[1] is None else weights[1].detach().double()
    return Affine(
        spec.in_channels,
        spec.out_channels,
        spec.groups,
        spec.stride,
        tuple(offsets for offsets, _ in axes),
        tuple(surplus for _, surplus in axes),
        spec.padding_mode,
        spec.bias,
        kernel,
        bias,
    )


def identity(channels: int, axes: int, weights: bool = False) -> Affine:
    """What passes its input on: a kernel of one tap, 1 where a channel meets itself."""
    kernel = torch.ones(channels, 1, *(1,) * axes, dtype=torch.float64) if weights else None
    ones = (1,) * axes
    return Affine(channels, channels, channels, ones, ((0,),) * axes, (-1,) * axes, "zeros", False, kernel)


def _said(one: Affine) -> str:
    sizes = "x".join(str(o[-1] - o[0] + 1) for o in one.offsets)
    pads = one.padding if any(low != high for low, high in one.padding) else [low for low, _ in one.padding]
    padding = pads[0] if len(set(pads)) == 1 else tuple(pads)
    stride = one.stride[0] if len(set(one.stride)) == 1 else one.stride
    return f"a {sizes} with padding {padding} and stride {stride}"
