"""ConvSpec: shapes, parameters, MACs and receptive field of a convolution on paper, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from archcost.errors import InputError

__all__ = ["ConvSpec", "FieldStep", "stacked_field"]

if TYPE_CHECKING:
    # For type checkers: the sizes of `ConvSpec` are given in several forms and read as tuples.
    class PerAxis:
        def __init__(self, default: int | Sequence[int]) -> None: ...
        def __get__(self, spec: ConvSpec | None, kind: type[ConvSpec]) -> tuple[int, ...]: ...
        def __set__(self, spec: ConvSpec, value: int | Sequence[int]) -> None: ...

    class Sides:
        def __init__(self, default: int) -> None: ...
        def __get__(self, spec: ConvSpec | None, kind: type[ConvSpec]) -> tuple[tuple[int, int], ...]: ...
        def __set__(self, spec: ConvSpec, value: int | Sequence[int | tuple[int, int]]) -> None: ...
else:
    PerAxis = Sides = lambda default: default


def _per_axis(name: str, value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != axes:
        raise InputError(f"ConvSpec: {name} has {len(values)} values for {axes} spatial axes: {value!r}")
    return values


@dataclass(frozen=True)
class FieldStep:
    """The receptive field of a stack of layers, in pixels of its input, with a number for each spatial axis.

    Position p of the output sees the pixels from ``p * stride - padding`` to
    ``p * stride - padding + size - 1``.
    """

    size: tuple[int, ...]
    """Pixels that a position sees."""
    stride: tuple[int, ...]
    """Pixels from the receptive field of a position to that of the next, also called jump."""
    padding: tuple[int, ...]
    """Pixels by which the receptive field of position 0 begins before the input."""


@dataclass(frozen=True)
class ConvSpec:
    """A convolution without its weights, with 1, 2 or 3 spatial axes.

    Sizes are an int for all axes, or a sequence with an int for each spatial axis; padding also takes
    ``(low, high)`` pairs. ``input_size`` is the spatial size of the input; its length is the number of axes.

    >>> alexnet = ConvSpec(3, 96, 11, stride=4, input_size=(227, 227))
    >>> alexnet.output_size, alexnet.neurons, alexnet.params
    ((55, 55), 290400, 34944)
    >>> alexnet.macs
    105415200

    A pooling layer has the ``output_size``, ``neurons``, ``extent`` and ``receptive_field`` of a depthwise
    convolution, ``groups=channels``; its ``params`` and ``macs`` mean nothing, since it has no weights.

    >>> ConvSpec(64, 64, 2, stride=2, groups=64, input_size=(224, 224)).output_size
    (112, 112)
    >>> ConvSpec(96, 96, 3, stride=2, groups=96, input_size=alexnet.output_size).output_size
    (27, 27)
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: PerAxis = PerAxis(1)
    padding: Sides = Sides(0)
    dilation: PerAxis = PerAxis(1)
    groups: int = 1
    transposed: bool = False
    output_padding: PerAxis = PerAxis(0)
    padding_mode: str = "zeros"
    bias: bool = True
    input_size: PerAxis = PerAxis((224, 224))
    batch: int = 1

    if TYPE_CHECKING:  # a descriptor cannot type kernel_size, which has no default

        def __init__(
            self,
            in_channels: int,
            out_channels: int,
            kernel_size: int | Sequence[int],
            stride: int | Sequence[int] = 1,
            padding: int | Sequence[int | tuple[int, int]] = 0,
            dilation: int | Sequence[int] = 1,
            groups: int = 1,
            transposed: bool = False,
            output_padding: int | Sequence[int] = 0,
            padding_mode: str = "zeros",
            bias: bool = True,
            input_size: int | Sequence[int] = (224, 224),
            batch: int = 1,
        ) -> None: ...

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
        wrong += ["output_padding"] * (min(self.output_padding) < 0)
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

    def __str__(self) -> str:
        """The convolution without defaults: ``64 -> 64, 3x3, padding 1, on 56x56, batch 1``."""
        said = [f"{self.in_channels} -> {self.out_channels}", _by(self.kernel_size)]
        said += ["transposed"] * self.transposed
        if any(map(any, self.padding)):
            sides = [str(low) if low == high else f"{low}+{high}" for low, high in self.padding]
            alike = len({*self.padding}) == 1 and "+" not in sides[0]
            said.append(f"padding {sides[0] if alike else ' '.join(sides)}")
        for name, usual in (("stride", 1), ("dilation", 1), ("output_padding", 0)):
            if {*getattr(self, name)} != {usual}:
                said.append(f"{name.replace('_', ' ')} {_one(getattr(self, name))}")
        said += [f"groups {self.groups}"] * (self.groups > 1)
        said += [self.padding_mode] * (self.padding_mode != "zeros") + ["no bias"] * (not self.bias)
        return ", ".join([*said, f"on {_by(self.input_size)}", f"batch {self.batch}"])

    @property
    def short(self) -> str:
        """The convolution in short: ``64 -> 128 3x3 /2 on 56x56``."""
        said = f"{self.in_channels} -> {self.out_channels} {_by(self.kernel_size)}"
        said += f" /{_one(self.stride)}" * (max(self.stride) > 1)
        said += f" dilation {_one(self.dilation)}" * (max(self.dilation) > 1)
        said += f" groups {self.groups}" * (self.groups > 1) + " transposed" * self.transposed
        return f"{said} on {_by(self.input_size)}"

    @property
    def layer(self) -> str:
        """The layer, whatever the input: ``64 -> 128, 5x5, stride 2``."""
        said = [f"{self.in_channels} -> {self.out_channels}", _by(self.kernel_size)]
        said += [f"stride {_one(self.stride)}"] * (max(self.stride) > 1)
        said += [f"dilation {_one(self.dilation)}"] * (max(self.dilation) > 1)
        if self.groups > 1:
            depthwise = self.groups == self.in_channels == self.out_channels
            said.append("depthwise" if depthwise else f"{self.groups} groups")
        return ", ".join([*said, *["transposed"] * self.transposed])

    @property
    def axes(self) -> int:
        """The number of spatial axes: 1, 2 or 3."""
        return len(self.input_size)

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the first tap to the last, for each axis: dilation * (kernel_size - 1) + 1.

        >>> ConvSpec(64, 64, 3, dilation=4).extent
        (9, 9)
        """
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output, for each axis, by the formulas of ``torch.nn.ConvNd``."""
        columns = (self.input_size, self.extent, self.stride, self.padding, self.output_padding)
        axes = zip(*columns, strict=True)
        if self.transposed:
            return tuple((n - 1) * s - lo - hi + e + o for n, e, s, (lo, hi), o in axes)
        return tuple((n + lo + hi - e) // s + 1 for n, e, s, (lo, hi), _ in axes)

    def receptive_field(self, before: FieldStep | None = None) -> FieldStep:
        """The receptive field of an output position, in the layer's input or in that of a stack before it.

        It follows the recurrences of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional
        Neural Networks" (Distill 2019), for an input without borders: ``input_size`` plays no part.

        >>> conv = ConvSpec(3, 96, 11, stride=4)
        >>> ConvSpec(96, 96, 3, stride=2, groups=96).receptive_field(before=conv.receptive_field())
        FieldStep(size=(19, 19), stride=(8, 8), padding=(0, 0))

        Args:
            before: the receptive field of the stack of layers that makes this layer's input.

        Raises:
            InputError: ``before`` has another number of axes; or the convolution is transposed with a stride
                above 1, so that the size of the receptive field depends on the position.
        """
        axes, stride = self.axes, self.stride
        low = [lo for lo, _ in self.padding]
        if self.transposed:
            if max(stride) > 1:
                raise InputError(
                    f"ConvSpec: the receptive field of a transposed convolution of stride {stride} depends "
                    f"on the position; build the module and call archcost.receptive_field"
                )
            # With stride 1 it is a convolution by the mirrored kernel.
            low = [e - 1 - lo for e, lo in zip(self.extent, low, strict=True)]
        if before is None:
            before = FieldStep((1,) * axes, (1,) * axes, (0,) * axes)
        if len(before.size) != axes:
            raise InputError(
                f"ConvSpec: the spec has {axes} spatial axes and before has {len(before.size)}; give the same"
            )
        columns = (self.extent, stride, low, before.size, before.stride, before.padding)
        steps = [
            (size + (e - 1) * jump, s * jump, padding + lo * jump)
            for e, s, lo, size, jump, padding in zip(*columns, strict=True)
        ]
        return FieldStep(*zip(*steps, strict=True))

    @property
    def weights(self) -> int:
        """Elements of the weight tensor: in_channels * out_channels / groups * taps of the kernel."""
        taps: int = prod(self.kernel_size)
        return self.in_channels * self.out_channels // self.groups * taps

    @property
    def params(self) -> int:
        """Weights and biases, a bias for each output channel."""
        return self.weights + (self.out_channels if self.bias else 0)

    @property
    def neurons(self) -> int:
        """Output elements, the batch included."""
        return self.batch * self.out_channels * prod(self.output_size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates: batch * weights * positions.

        The positions are those of the output, or of the input where the convolution is transposed. Taps in
        the padding are counted, as in published tables.
        """
        positions = self.input_size if self.transposed else self.output_size
        return self.batch * self.weights * prod(positions)

    @property
    def flops(self) -> int:
        """Twice the MACs, for real numbers and without the bias."""
        return 2 * self.macs

    @property
    def bias_ops(self) -> int:
        """Additions of the bias: as many as output elements."""
        return self.neurons if self.bias else 0


def _by(values: Iterable[int]) -> str:
    return "x".join(map(str, values))


def _one(values: tuple[int, ...]) -> str:
    """The value of all axes where it is the same, else that of each: ``2``, ``2x1``."""
    return _by(dict.fromkeys(values) if len({*values}) == 1 else values)


def stacked_field(layers: Iterable[ConvSpec]) -> FieldStep:
    """The receptive field of a stack of layers, given from the input on.

    Channels and input sizes play no part.

    >>> stacked_field([ConvSpec(64, 64, 3, padding=1)] * 3)
    FieldStep(size=(7, 7), stride=(1, 1), padding=(3, 3))

    Raises:
        InputError: there are no layers, or as `ConvSpec.receptive_field`.
    """
    field = None
    for layer in layers:
        field = layer.receptive_field(field)
    if field is None:
        raise InputError("stacked_field: no layers given; give at least one ConvSpec")
    return field
