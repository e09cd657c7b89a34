"""ConvSpec: one convolution on paper. Shapes, parameters and multiply-accumulates; no tensor, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

from archcost.errors import InputError

__all__ = ["ConvSpec"]


def _per_axis(name: str, value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != axes:
        raise InputError(f"ConvSpec: {name} has {len(values)} values for {axes} spatial axes: {value!r}")
    return values


@dataclass(frozen=True)
class ConvSpec:
    """One convolution without its weights, of 1, 2 or 3 spatial dimensions.

    Per-axis arguments take one int for all axes or one a spatial axis; padding also takes
    ``(low, high)`` pairs. ``input_size`` is the spatial size; its length says how many axes there are.

    >>> alexnet = ConvSpec(3, 96, 11, stride=4, input_size=(227, 227))
    >>> alexnet.output_size, alexnet.neurons, alexnet.params
    ((55, 55), 290400, 34944)
    >>> alexnet.macs
    105415200
    """

    in_channels: int
    out_channels: int
    kernel_size: int | Sequence[int]
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int | tuple[int, int]] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1
    transposed: bool = False
    output_padding: int | Sequence[int] = 0
    padding_mode: str = "zeros"
    bias: bool = True
    input_size: Sequence[int] = (224, 224)
    batch: int = 1

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        size = (self.input_size,) if isinstance(self.input_size, int) else tuple(self.input_size)
        axes = len(size)
        if isinstance(self.padding, str):
            raise InputError(
                "ConvSpec: give padding in numbers; 'same' is dilation * (kernel_size - 1) / 2 a side"
            )
        if axes not in (1, 2, 3):
            raise InputError(f"ConvSpec: input_size needs 1, 2 or 3 spatial sizes, got {self.input_size!r}")
        put("input_size", size)
        for name in ("kernel_size", "stride", "dilation", "output_padding"):
            put(name, _per_axis(name, getattr(self, name), axes))
        pads = (self.padding,) * axes if isinstance(self.padding, int) else tuple(self.padding)
        if len(pads) != axes:
            raise InputError(f"ConvSpec: padding has {len(pads)} values for {axes} spatial axes")
        sides = tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in pads)
        put("padding", sides)
        least_one = ("in_channels", "out_channels", "groups", "batch")
        wrong = [name for name in least_one if getattr(self, name) < 1]
        per_axis = ("kernel_size", "stride", "dilation", "input_size")
        wrong += [name for name in per_axis if min(getattr(self, name)) < 1]
        wrong += ["padding"] * (min(min(pair) for pair in sides) < 0)
        wrong += ["output_padding"] * (min(self.output_padding) < 0)  # type: ignore[arg-type]
        if wrong:
            values = ", ".join(f"{name}={getattr(self, name)!r}" for name in wrong)
            raise InputError(f"ConvSpec: {values} is too small: sizes are at least 1, paddings at least 0")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(
                f"ConvSpec: groups={self.groups} must divide in_channels={self.in_channels} "
                f"and out_channels={self.out_channels}"
            )
        if min(self.output_size) < 1:
            raise InputError(
                f"ConvSpec: a kernel of {self.kernel_size}, dilation {self.dilation}, does not fit the "
                f"input of {self.input_size} with padding {self.padding}"
            )

    @property
    def _taps(self) -> int:
        return prod(cast("tuple[int, ...]", self.kernel_size))

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output, one number an axis (the formulas of ``torch.nn.ConvNd``)."""
        # __post_init__ has made every one of them a tuple of one value an axis.
        columns = (self.input_size, self.kernel_size, self.stride, self.padding, self.dilation)
        axes = zip(*cast("tuple[tuple[Any, ...], ...]", (*columns, self.output_padding)), strict=True)
        if self.transposed:
            return tuple((n - 1) * s - lo - hi + d * (k - 1) + o + 1 for n, k, s, (lo, hi), d, o in axes)
        return tuple((n + lo + hi - d * (k - 1) - 1) // s + 1 for n, k, s, (lo, hi), d, _ in axes)

    @property
    def weights(self) -> int:
        """Elements of the weight tensor: in_channels x out_channels / groups x taps."""
        return self.in_channels * self.out_channels // self.groups * self._taps

    @property
    def params(self) -> int:
        """Weights, and one bias for each output channel."""
        return self.weights + (self.out_channels if self.bias else 0)

    @property
    def neurons(self) -> int:
        """Output elements, the batch included."""
        return self.batch * self.out_channels * prod(self.output_size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates: every weight is used once for each position it slides over.

        The positions are those of the output, or of the input where the convolution is transposed.
        Taps that fall into the padding are counted, as in published tables.
        """
        positions = self.input_size if self.transposed else self.output_size
        return self.batch * self.weights * prod(positions)

    @property
    def flops(self) -> int:
        """Twice the MACs; the bias is not among them."""
        return 2 * self.macs

    @property
    def bias_ops(self) -> int:
        """One addition for each output element, where there is a bias."""
        return self.neurons if self.bias else 0
