"""What the rules share that put a chain in the place of one convolution."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch

from archcost.errors import RewriteError
from archcost.merging.chain import Chain, Conv
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Factorisation, Options
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec

__all__ = [
    *("LinearChain", "activated", "along", "as_weight", "chain_macs", "count", "depthwise", "of_group"),
    *("rank_for", "said", "taps", "upright"),
]

# Above this, ranks are multiples of 8, which is what vectors are made of.
_FINE_UP_TO = 32


class LinearChain(Factorisation):
    """A rule whose chain has sizes that are left open, linear but for an activation that is asked for.

    Beside what every rule answers, it says what it cannot be built for whatever the sizes, and what the
    cheapest chain would be: where that saves nothing, the rule does not apply.
    """

    built: Callable[..., Replacement]
    """As `replacement`, of a subject; its arguments are the options that the rule has."""

    @abstractmethod
    def unfit(self, spec: ConvSpec) -> str | None:
        """Why no chain of this rule does what the layer does, in words that follow its name."""

    @abstractmethod
    def cheapest(self, spec: ConvSpec) -> Chain:
        """With the smallest sizes; of a layer that is fit."""

    @abstractmethod
    def lossless(self, spec: ConvSpec) -> Iterator[Options]:
        """The smallest sizes with which every kernel is composed exactly, whatever they cost."""

    @abstractmethod
    def bound(self, spec: ConvSpec, **options: Any) -> float:
        """The size that has as many MACs as the layer, on maps so large that their borders do not count."""

    def refusal(self, subject: Subject) -> str | None:
        spec = subject.spec
        why = self.unfit(spec)
        if why is not None:
            return why
        times = chain_macs(self.cheapest(spec)) / spec.macs
        if times < 1:
            return None
        return f"even its smallest form has {times:.2f} times the MACs of the layer, {self.break_even}"

    def checked(self, subject: Subject) -> ConvSpec:
        """Of the layer, if a chain can be built for it; what it costs is no matter here."""
        spec = subject.spec
        why = self.unfit(spec)
        if why is not None:
            raise RewriteError(f"{subject.name}: {self.name} does not apply: {why}")
        return spec

    def replacement(self, subject: Subject, **options: Any) -> Replacement:
        there = list(inspect.signature(self.built).parameters)[1:]
        for name in options:
            if name not in there:
                raise RewriteError(
                    f"{subject.name}: {self.name} has no option {name!r}; it has {', '.join(there)}"
                )
        return self.built(subject, **options)

    def made(self, subject: Subject, chain: Chain, exact: bool, note: str = "", **how: Any) -> Replacement:
        """The replacement, with a word where it costs more than the layer."""
        times = chain_macs(chain) / subject.spec.macs
        if times >= 1:
            bound = self.bound(subject.spec, **how)
            dear = f"{times:.1f} times its MACs: fewer only below {bound:.3g} ({self.break_even})"
            note = f"{note}; {dear}" if note else dear
        return Replacement({subject.name: chain}, exact, note)


def chain_macs(chain: Iterable[Any]) -> int:
    """Of its convolutions, as built: the maps between them may be larger than that of the layer."""
    return sum(step.spec.macs for step in chain if isinstance(step, Conv))


def taps(spec: ConvSpec) -> int:
    """Of its kernel: K^2 of a KxK."""
    return prod(spec.kernel_size)


def of_group(spec: ConvSpec) -> tuple[int, int]:
    """Input and output channels of each group: I and O."""
    return spec.in_channels // spec.groups, spec.out_channels // spec.groups


def depthwise(spec: ConvSpec) -> bool:
    """Whether each of several groups has one input channel."""
    return spec.groups > 1 and spec.groups == spec.in_channels


def said(size: Any) -> str:
    """A kernel size as people say it: ``5x5``.

    >>> said((5, 3))
    '5x3'
    """
    return "x".join(str(k) for k in size)


def along(spec: ConvSpec, axes: Sequence[int], **changes: Any) -> ConvSpec:
    """The part of a convolution that looks along some axes; the others are left as they are."""

    def only(values: Any, other: Any) -> tuple[Any, ...]:
        return tuple(value if axis in axes else other for axis, value in enumerate(values))

    parts = {
        "kernel_size": only(spec.kernel_size, 1),
        "stride": only(spec.stride, 1),
        "padding": only(spec.padding, (0, 0)),
        "dilation": only(spec.dilation, 1),
        "output_padding": only(spec.output_padding, 0),
    }
    return replace(spec, **{**parts, **changes})


def rank_for(chain_of: Callable[[int], Chain], macs: float, most: int) -> int:
    """The largest size from 1 to ``most`` whose chain has at most so many MACs; 1 where that has more.

    Args:
        chain_of: of a size, with which its MACs rise.
    """
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if chain_macs(chain_of(middle)) <= macs else (low, middle - 1)
    return low - low % 8 if _FINE_UP_TO <= low < most else low


def count(subject: Subject, option: str, value: Any, most: int | None = None, step: int = 1) -> int:
    """An option that counts something, once it makes sense.

    Raises:
        RewriteError: it does not.
    """
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= step and value % step == 0
    if fits and (most is None or value <= most):
        return int(value)
    wanted = f"from {step} to {most}" if most is not None else f"at least {step}"
    if step > 1:
        wanted += f", a multiple of its {step} groups"
    if most is not None:
        wanted += ", where it is exact"
    raise RewriteError(f"{subject.name}: {option}={value!r} makes no sense here; give a number {wanted}")


def upright(kernel: torch.Tensor, replacement: Replacement) -> torch.Tensor:
    """The layer's kernel with outputs before inputs, also where it is transposed and has them behind."""
    turned = any(conv.spec.transposed for conv in replacement.convs)
    return kernel.transpose(1, 2) if turned else kernel


def as_weight(kernel: torch.Tensor, spec: ConvSpec) -> torch.Tensor:
    """From (groups, out / groups, in / groups, *kernel_size) to the shape of the ``weight`` of its module."""
    parts = kernel.transpose(1, 2) if spec.transposed else kernel
    shape = (spec.in_channels if spec.transposed else spec.out_channels, -1, *spec.kernel_size)
    return parts.reshape(shape)


def activated(subject: Subject, activation: Any) -> str:
    """The class of ``torch.nn`` between two stages: one that lets through what is positive.

    Raises:
        RewriteError: it is another.
    """
    if activation != "ReLU":
        raise RewriteError(
            f"{subject.name}: activation={activation!r} cannot start at the linear composition; only 'ReLU' "
            f"lets through unchanged what is shifted far enough"
        )
    return "ReLU"
