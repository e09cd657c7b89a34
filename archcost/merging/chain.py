"""Descriptions of chains of layers that replace a layer. No module and no tensor is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from archcost.spec import ConvSpec, FieldStep, stacked_field

__all__ = ["Activation", "Chain", "ChainStep", "Conv", "Kept", "chain_field", "chained", "resized"]


@dataclass(frozen=True)
class Conv:
    """A convolution of a chain."""

    spec: ConvSpec
    """The convolution, at the size for the input of the replaced layer's first call."""
    path: str | None = None
    """The execution path that runs it; None: PyTorch's own module."""
    channels_last: bool = False
    """Whether weights and output are in channels_last."""
    linear: bool = False
    """Whether it is an ``nn.Linear``, which is a convolution of one tap over the positions of its input."""


@dataclass(frozen=True)
class Activation:
    """An activation function between two convolutions: a class of ``torch.nn`` without arguments."""

    kind: str = "ReLU"
    """Name of the class."""


@dataclass(frozen=True)
class Kept:
    """A module of the model that moves into the chain."""

    name: str
    """Name of the module."""
    spec: ConvSpec | None = None
    """Shapes of a pooling, as a depthwise convolution; None for other modules."""


ChainStep = Conv | Activation | Kept
Chain = tuple[ChainStep, ...]


class _Required(TypedDict):
    out_channels: int
    kernel_size: int | Sequence[int]


class ConvArguments(_Required, total=False):
    """Arguments of `ConvSpec`, without those that the convolution before it decides."""

    stride: int | Sequence[int]
    padding: int | Sequence[int | tuple[int, int]]
    dilation: int | Sequence[int]
    groups: int
    transposed: bool
    output_padding: int | Sequence[int]
    padding_mode: str
    bias: bool


def chained(first: ConvSpec, *rest: ConvArguments) -> tuple[Conv, ...]:
    """Convolutions in a row, each with the channels and size of the output before it.

    Args:
        rest: arguments of `ConvSpec` for each convolution behind the first, without ``in_channels``,
            ``input_size`` and ``batch``.
    """
    specs = [first]
    for arguments in rest:
        before = specs[-1]
        size, batch = before.output_size, before.batch
        specs.append(ConvSpec(before.out_channels, **arguments, input_size=size, batch=batch))
    return tuple(Conv(spec) for spec in specs)


def resized(chain: Chain, input_size: Sequence[int], batch: int) -> Chain:
    """The chain for another input size and batch.

    Raises:
        InputError: a kernel does not fit into it.
    """
    steps: list[ChainStep] = []
    size = tuple(input_size)
    for step in chain:
        if isinstance(step, Activation) or step.spec is None:
            steps.append(step)
            continue
        spec = replace(step.spec, input_size=size, batch=batch)
        steps.append(replace(step, spec=spec))
        size = spec.output_size
    return tuple(steps)


def specs_of(chain: Iterable[ChainStep]) -> Iterator[ConvSpec]:
    """Convolutions and poolings of a chain, in order."""
    for step in chain:
        if not isinstance(step, Activation) and step.spec is not None:
            yield step.spec


def chain_field(chain: Chain) -> FieldStep | None:
    """The receptive field of a chain; None where it has no convolution and no pooling.

    Raises:
        InputError: a step is transposed with a stride above 1.
    """
    specs = list(specs_of(chain))
    return stacked_field(specs) if specs else None
