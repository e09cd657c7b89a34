"""Affine: the function of a single convolution, composed of several; its shapes alone, or with weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import gcd

import torch

from archcost.errors import Refusal, RewriteError
from archcost.merging.compose import Index, composed, dense
from archcost.spec import ConvSpec

__all__ = ["Affine", "affine", "identity"]

WeightAndBias = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class Affine:
    """A convolution in normal form: output position p of an axis sums taps at ``p * stride + offset``.

    An axis of n pixels has ``(n + surplus) // stride + 1`` output positions.
    """

    in_channels: int
    out_channels: int
    groups: int
    stride: tuple[int, ...]
    offsets: tuple[tuple[int, ...], ...]
    """The offsets of the taps of each axis, in order."""
    surplus: tuple[int, ...]
    """Padding less the extent of the kernel, for each axis."""
    mode: str
    """The padding mode where taps lie outside; "zeros" where none do."""
    shifted: bool
    """Whether it adds a constant for each channel."""
    kernel: torch.Tensor | None = field(default=None, compare=False, repr=False)
    """Kernel in float64, (out_channels, in_channels / groups, *extent), every pixel of the extent; None:
    shapes only."""
    bias: torch.Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Padding of each axis, before and behind."""
        return tuple((-o[0], c + o[-1] + 1) for o, c in zip(self.offsets, self.surplus, strict=True))

    @property
    def padded(self) -> bool:
        return any(low or high for low, high in self.padding)

    @property
    def dilation(self) -> tuple[int, ...]:
        """The greatest common divisor of the distances of all taps, for each axis."""
        return tuple(max(1, gcd(*(x - o[0] for x in o))) for o in self.offsets)

    def spec(self, input_size: Sequence[int], batch: int = 1) -> ConvSpec:
        """The convolution for an input of some size."""
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
        """Weight and bias of the convolution, in float64."""
        assert self.kernel is not None
        taken: Index = (..., *(slice(None, None, d) for d in self.dilation))
        bias = self.bias
        if self.shifted and bias is None:
            bias = self.kernel.new_zeros(self.out_channels)
        return self.kernel[taken].contiguous(), bias if self.shifted else None

    def convolved(self, spec: ConvSpec, weights: WeightAndBias | None = None) -> Affine | Refusal:
        """This followed by a convolution, as a single convolution; or why there is none.

        The second pads the output of the first, which is the same as padding the input only where the first
        is pointwise and adds no constant.
        """
        then = affine(spec, weights)
        pointwise = not self.padded and all(o == (0,) for o in self.offsets)
        if then.padded and not pointwise:
            return Refusal(
                "pads the output of a layer with more than one tap: at the border that is not a single "
                "convolution"
            )
        if then.padded and then.mode == "zeros" and self.shifted:
            return Refusal(
                "pads with zeros the output of a layer with a bias: at the border that is not a single "
                "convolution"
            )
        if then.padded and then.mode != "zeros" and max(self.stride) > 1:
            return Refusal(
                f"pads the output of a strided layer by {then.mode}, which is not the same on its input"
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
        """This times a factor and plus a shift for each channel."""
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
        """The sum of both as a single convolution; or why there is none."""
        if (self.stride, self.surplus) != (other.stride, other.surplus):
            return Refusal(
                f"adds branches whose padding or stride does not align: {_said(self)} and {_said(other)}"
            )
        if self.padded and other.padded and self.mode != other.mode:
            return Refusal(f"adds branches that pad by {self.mode} and by {other.mode}")
        if (self.in_channels, self.out_channels) != (other.in_channels, other.out_channels):
            return Refusal("adds branches of different channels")
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
        """The kernel with the groups and the extent of a sum that it is a term of."""
        assert self.kernel is not None
        spread = dense(self.kernel, self.groups, whole.groups)
        spread = spread.reshape(-1, *spread.shape[2:])
        extent = [o[-1] - o[0] + 1 for o in whole.offsets]
        full = spread.new_zeros(*spread.shape[:2], *extent)
        pairs = zip(self.offsets, whole.offsets, strict=True)
        here: Index = (..., *(slice(o[0] - w[0], o[-1] - w[0] + 1) for o, w in pairs))
        full[here] = spread
        return full


def affine(spec: ConvSpec, weights: WeightAndBias | None = None) -> Affine:
    """A convolution as `Affine`, with its weight and bias where they are given.

    Raises:
        RewriteError: the convolution is transposed.
    """
    if spec.transposed:
        raise RewriteError("a transposed convolution cannot be merged with others")
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
    """The identity: a depthwise kernel of a single tap of 1."""
    kernel = torch.ones(channels, 1, *(1,) * axes, dtype=torch.float64) if weights else None
    ones = (1,) * axes
    return Affine(channels, channels, channels, ones, ((0,),) * axes, (-1,) * axes, "zeros", False, kernel)


def _said(one: Affine) -> str:
    sizes = "x".join(str(o[-1] - o[0] + 1) for o in one.offsets)
    pads = one.padding if any(low != high for low, high in one.padding) else [low for low, _ in one.padding]
    padding = pads[0] if len(set(pads)) == 1 else tuple(pads)
    stride = one.stride[0] if len(set(one.stride)) == 1 else one.stride
    return f"a {sizes} with padding {padding} and stride {stride}"
