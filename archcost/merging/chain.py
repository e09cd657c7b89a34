"""Chains of layers on paper, in the place of one layer. No module and no tensor is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from archcost.spec import ConvSpec, FieldStep, stacked_field

__all__ = ["Activation", "Chain", "ChainStep", "Conv", "Kept", "chain_field", "chained", "resized"]


@dataclass(frozen=True)
class Conv:
    """One convolution of a chain."""

    spec: ConvSpec
    """At the input that it gets where the chain gets that of the layer's first call."""
    path: str | None = None
    """The execution path that is to run it; None for PyTorch's own module."""
    channels_last: bool = False
    """Its weights lie in channels_last, and so does what it writes."""


@dataclass(frozen=True)
class Activation:
    """A function of single elements between two convolutions: a class of ``torch.nn`` without arguments."""

    kind: str = "ReLU"


@dataclass(frozen=True)
class Kept:
    """A module that the model has already, by its name: it moves here."""

    name: str
    spec: ConvSpec | None = None
    """Of a pooling: its shapes, as a depthwise convolution has them."""


ChainStep = Conv | Activation | Kept
Chain = tuple[ChainStep, ...]


def chained(first: ConvSpec, *rest: Mapping[str, object]) -> tuple[Conv, ...]:
    """Convolutions in a row: each gets the channels and the size that the one before it has made.

    ``rest`` are the arguments of `ConvSpec` for those behind the first, ``in_channels`` and ``input_size``
    left out.
    """
    specs = [first]
    for arguments in rest:
        before = specs[-1]
        given = {"batch": before.batch, "padding": 0, **arguments}
        specs.append(ConvSpec(in_channels=before.out_channels, input_size=before.output_size, **given))  # type: ignore[arg-type]
    return tuple(Conv(spec) for spec in specs)


def resized(chain: Chain, input_size: Sequence[int], batch: int) -> Chain:
    """The same chain for another input.

    Raises:
        InputError: one of its kernels does not fit there.
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
    """Of its convolutions and poolings, in order."""
    for step in chain:
        if not isinstance(step, Activation) and step.spec is not None:
            yield step.spec


def chain_field(chain: Chain) -> FieldStep | None:
    """What one output position of the chain sees of its input; None where no step looks at neighbours.

    Raises:
        InputError: a step is transposed with a stride above 1.
    """
    specs = list(specs_of(chain))
    return stacked_field(specs) if specs else None
