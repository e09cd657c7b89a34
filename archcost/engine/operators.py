"""The engine's operators: what each computes, said here by PyTorch; `lowering` makes steps of them.

Shapes are logical: images are (batch, channels, height, width) whatever their layout in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from archcost.engine.activation import IDENTITY, Activation
from archcost.kernels.packing import WinogradTile

__all__ = [
    "Activate",
    "Affine",
    "Attention",
    "Channels",
    "Concatenate",
    "Convolution",
    "Elementwise",
    "Interpolate",
    "InvertedResidual",
    "LayerNorm",
    "Linear",
    "MatMul",
    "Mean",
    "Operator",
    "Permute",
    "Pool",
    "Reshape",
    "Slice",
    "Softmax",
    "SqueezeExcite",
]

Sides = tuple[tuple[int, int], tuple[int, int]]
"""Padding: (top, bottom), (left, right)."""


class Operator(Protocol):
    """A frozen dataclass with everything about a node but its inputs."""

    def reference(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The result by PyTorch, in the dtype of the inputs; a tuple where a node has further tensors."""
        ...


def _like(x: Tensor, constant: Tensor | None) -> Tensor | None:
    return None if constant is None else constant.to(x.dtype)


def _per_channel(x: Tensor, values: Tensor) -> Tensor:
    return values.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 2))


@dataclass(frozen=True, eq=False)
class Affine:
    """activation(scale x + shift), by channel: a batch normalisation at inference."""

    scale: Tensor
    shift: Tensor
    activation: Activation = IDENTITY

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return self.activation(x * _per_channel(x, self.scale) + _per_channel(x, self.shift))


@dataclass(frozen=True, eq=False)
class Convolution:
    """activation(conv(before(x)) * gate + bias + addend), images only.

    Inputs: x, then the addend where ``adds``, then where ``gated`` the factors of the input's channels,
    (batch, in_channels, 1, 1).
    """

    weight: Tensor
    """(out_channels, in_channels of a group, height, width), in double precision."""
    bias: Tensor | None
    stride: tuple[int, int]
    padding: Sides
    dilation: tuple[int, int]
    groups: int
    activation: Activation = IDENTITY
    before: Affine | None = None
    """Done to the input first; what is padded stays zero."""
    adds: bool = False
    gated: bool = False
    tile: WinogradTile | None = None
    """Of the Winograd transform that it runs by; None: none."""
    fourier: int = 0
    """Size of the Fourier transforms of rows that a depthwise convolution runs by; 0: none."""
    sources: tuple[tuple[int, int], ...] | None = None
    """For each input channel, the input that holds it and its channel there; None: those of one input."""

    @property
    def pointwise(self) -> bool:
        """1x1, one group, nothing padded."""
        return self.weight.shape[2:] == (1, 1) and self.groups == 1 and self.padding == ((0, 0), (0, 0))

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.weight.shape[1] == 1 and self.weight.shape[0] == self.groups

    def reference(self, *inputs: Tensor) -> Tensor:
        rest = list(inputs)
        if self.sources is None:
            x = rest.pop(0)
        else:
            count = 1 + max(source for source, _ in self.sources)
            parts, rest = rest[:count], rest[count:]
            x = Channels(self.sources).reference(*parts)
        if self.before is not None:
            x = self.before.reference(x)
        addend = rest.pop(0) if self.adds else None
        if self.gated:
            x = x * rest.pop(0)
        (top, bottom), (left, right) = self.padding
        x = F.pad(x, (left, right, top, bottom))
        y = F.conv2d(
            *(x, self.weight.to(x.dtype), _like(x, self.bias), self.stride, 0, self.dilation, self.groups)
        )
        return self.activation(y if addend is None else y + addend)


@dataclass(frozen=True)
class Pool:
    """Maximum or average of windows."""

    kind: Literal["max", "average"]
    size: tuple[int, int]
    stride: tuple[int, int]
    padding: Sides
    """On the far sides what is needed for the output's size, which rounding up may make more."""
    dilation: tuple[int, int] = (1, 1)
    counts_padding: tuple[tuple[int, int], tuple[int, int]] | None = None
    """Padding that an average counts as zeros; None: it divides by what is in the image."""

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        (top, bottom), (left, right) = self.padding
        if self.kind == "max":
            x = F.pad(x, (left, right, top, bottom), value=-torch.inf)
            return F.max_pool2d(x, self.size, self.stride, 0, self.dilation)
        ones = torch.ones_like(x[:1, :1])
        if self.counts_padding is not None:
            (above, below), (before, behind) = self.counts_padding
            ones = F.pad(ones, (before, behind, above, below), value=1.0)
            ones = F.pad(ones, (left - before, right - behind, top - above, bottom - below))
        else:
            ones = F.pad(ones, (left, right, top, bottom))
        x = F.pad(x, (left, right, top, bottom))
        return F.avg_pool2d(x, self.size, self.stride) / F.avg_pool2d(ones, self.size, self.stride)


@dataclass(frozen=True, eq=False)
class Linear:
    """activation(x W^T + bias + addend) along the last dimension. Inputs: x, and an addend if it ``adds``."""

    weight: Tensor
    """(out_features, in_features), in double precision."""
    bias: Tensor | None
    activation: Activation = IDENTITY
    adds: bool = False

    def reference(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        y = F.linear(x, self.weight.to(x.dtype), _like(x, self.bias))
        return self.activation(y + inputs[1] if self.adds else y)


@dataclass(frozen=True)
class Activate:
    """An elementwise function of one tensor."""

    activation: Activation

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return self.activation(x)


@dataclass(frozen=True)
class Elementwise:
    """activation(a op b), shapes broadcast."""

    kind: Literal["add", "sub", "mul", "div", "maximum", "minimum"]
    activation: Activation = IDENTITY

    def reference(self, *inputs: Tensor) -> Tensor:
        a, b = inputs
        return self.activation(getattr(torch, self.kind)(a, b))


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Normalisation over one dimension, then scale and shift along it."""

    dim: int
    """-1, or 1 for the channels of images."""
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        moved = x.movedim(self.dim, -1)
        size = moved.shape[-1:]
        y = F.layer_norm(moved, size, _like(x, self.weight), _like(x, self.bias), self.eps)
        return y.movedim(-1, self.dim)


@dataclass(frozen=True)
class Mean:
    """The mean over dimensions, which stay with size 1 where ``keepdim``."""

    dims: tuple[int, ...]
    keepdim: bool

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.mean(self.dims, self.keepdim)


@dataclass(frozen=True)
class Channels:
    """Channels (dimension 1) picked from one or several tensors: concatenation, slices, shuffles."""

    sources: tuple[tuple[int, int], ...]
    """For each channel of the output, the input and its channel there."""

    def reference(self, *inputs: Tensor) -> Tensor:
        runs: list[Tensor] = []
        for source, first, count in self.runs():
            runs.append(inputs[source][:, first : first + count])
        return torch.cat(runs, 1)

    def runs(self) -> list[tuple[int, int, int]]:
        """Neighbouring channels of one input together: the input, the first channel there, how many."""
        runs: list[list[int]] = []
        for source, channel in self.sources:
            if runs and runs[-1][0] == source and runs[-1][1] + runs[-1][2] == channel:
                runs[-1][2] += 1
            else:
                runs.append([source, channel, 1])
        return [(source, first, count) for source, first, count in runs]


@dataclass(frozen=True)
class Concatenate:
    """Tensors one behind the other along a dimension."""

    dim: int

    def reference(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.dim)


@dataclass(frozen=True)
class Reshape:
    """The same elements in order, in another shape."""

    shape: tuple[int, ...]

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.reshape(self.shape)


@dataclass(frozen=True)
class Permute:
    """Dimensions in another order."""

    order: tuple[int, ...]

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.permute(self.order)


@dataclass(frozen=True)
class Slice:
    """A range of one dimension."""

    dim: int
    start: int
    stop: int
    step: int = 1

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x[(slice(None),) * self.dim + (slice(self.start, self.stop, self.step),)]


@dataclass(frozen=True)
class MatMul:
    """scale (a b), batched and broadcast."""

    scale: float = 1.0

    def reference(self, *inputs: Tensor) -> Tensor:
        a, b = inputs
        return torch.matmul(a, b) * self.scale if self.scale != 1 else torch.matmul(a, b)


@dataclass(frozen=True)
class Softmax:
    """Softmax along a dimension."""

    dim: int

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.softmax(self.dim)


@dataclass(frozen=True)
class Attention:
    """softmax(scale q k^T + mask) v over (batch, heads, tokens, features). Inputs: q, k, v, and a mask."""

    scale: float

    def reference(self, *inputs: Tensor) -> Tensor:
        q, k, v, *mask = inputs
        return F.scaled_dot_product_attention(q, k, v, mask[0] if mask else None, scale=self.scale)


@dataclass(frozen=True)
class Interpolate:
    """Images in another size."""

    mode: Literal["nearest", "bilinear"]
    size: tuple[int, int]
    align_corners: bool = False
    scales: tuple[float | None, float | None] = (None, None)

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self.mode == "nearest":
            made: Tensor = torch.ops.aten.upsample_nearest2d(x, self.size, *self.scales)
        else:
            aligned = self.align_corners
            made = torch.ops.aten.upsample_bilinear2d(x, self.size, aligned, *self.scales)
        return made


@dataclass(frozen=True, eq=False)
class InvertedResidual:
    """Expansion, depthwise convolution and projection (Sandler et al., 2018, arXiv:1801.04381) in one.

    Inputs: x, and the addend where ``project`` adds. Without a projection it computes the depthwise
    convolution's output and, as a further tensor, its sums over the pixels, (batch, channels, 1, 1).
    """

    expand: Convolution | None
    depthwise: Convolution
    project: Convolution | None

    def reference(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x, *rest = inputs
        if self.expand is not None:
            x = self.expand.reference(x)
        x = self.depthwise.reference(x)
        if self.project is None:
            return x, x.sum((2, 3), keepdim=True)
        return self.project.reference(x, *rest)


@dataclass(frozen=True, eq=False)
class SqueezeExcite:
    """gate(W2 inner(W1 mean(x) + b1) + b2): factors of channels, (batch, channels, 1, 1)."""

    reduce: Linear
    expand: Linear
    pixels: int | None = None
    """The input holds sums over so many pixels; None: it is the images."""

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        mean = x.mean((2, 3)) if self.pixels is None else x[:, :, 0, 0] / self.pixels
        gate = self.expand.reference(self.reduce.reference(mean))
        return gate[:, :, None, None]
