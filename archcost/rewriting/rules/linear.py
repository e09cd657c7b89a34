"""The base of the rules that replace a convolution by a chain, and their helpers."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import TypeVar

import torch

from archcost.errors import Refusal, RewriteError
from archcost.merging.chain import Chain, Conv
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Factorisation, Option, RuleOptions
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec

__all__ = [
    *("LinearChain", "activated", "along", "as_weight", "chain_macs", "count", "depthwise", "of_group"),
    *("pointwise", "rank_for", "said", "taps", "upright"),
]

# From here on ranks are multiples of 8, the width of a vector of float32.
_FINE_UP_TO = 32


T = TypeVar("T")


class LinearChain(Factorisation):
    """A rule for a chain of free sizes (ranks), linear unless an activation function is asked for.

    It does not apply where no chain computes the layer (`unfit`) or the `cheapest` chain saves no MACs.
    """

    built: Callable[..., Replacement]
    """The `replacement` of a subject; its further arguments are the options of the rule."""

    @abstractmethod
    def unfit(self, spec: ConvSpec) -> Refusal | None:
        """Why no chain of this rule can compute the layer, in words that follow its name; else None."""

    @abstractmethod
    def cheapest(self, spec: ConvSpec) -> Chain:
        """The chain with the smallest sizes, for a layer that is not `unfit`."""

    @abstractmethod
    def lossless(self, spec: ConvSpec) -> Iterator[RuleOptions]:
        """Options with the smallest sizes that compose to every kernel exactly, whatever they cost."""

    @abstractmethod
    def bound(self, spec: ConvSpec, variant: str | None = None) -> float:
        """The size at which the chain has as many MACs as the layer, on maps without borders.

        Args:
            variant: the value of the rule's option that is a word (``first``, ``form``, ``order``); None: its
                default.
        """

    def refusal(self, subject: Subject) -> Refusal | None:
        spec = subject.spec
        why = self.unfit(spec)
        if why is not None:
            return why
        times = chain_macs(self.cheapest(spec)) / spec.macs
        if times < 1:
            return None
        return Refusal(
            f"even its smallest form has {times:.2f} times the MACs; fewer where {self.break_even}"
        )

    def checked(self, subject: Subject) -> ConvSpec:
        """The layer's convolution; raises where no chain can compute it."""
        spec = subject.spec
        why = self.unfit(spec)
        if why is not None:
            raise RewriteError(f"{subject.name}: {self.name} does not apply: {why}")
        return spec

    def replacement(self, subject: Subject, **options: Option) -> Replacement:
        there = list(inspect.signature(self.built).parameters)[1:]
        for name in options:
            if name not in there:
                raise RewriteError(
                    f"{subject.name}: {self.name} has no option {name!r}; it has {', '.join(there)}"
                )
        return self.built(subject, **options)

    def made(
        self, subject: Subject, chain: Chain, exact: bool, note: str = "", variant: str | None = None
    ) -> Replacement:
        """The replacement by a chain, with a note where it has more MACs than the layer."""
        times = chain_macs(chain) / subject.spec.macs
        if times >= 1:
            bound = self.bound(subject.spec, variant)
            dear = (
                f"{times:.1f} times the MACs of the layer; fewer only below {bound:.3g} ({self.break_even})"
            )
            note = f"{note}; {dear}" if note else dear
        return Replacement({subject.name: chain}, exact, note)


def chain_macs(chain: Chain) -> int:
    """MACs of a chain as built, where maps between stages may be larger than that of the layer."""
    return sum(step.spec.macs for step in chain if isinstance(step, Conv))


def taps(spec: ConvSpec) -> int:
    """Number of taps of a kernel, K^2 for KxK."""
    return prod(spec.kernel_size)


def of_group(spec: ConvSpec) -> tuple[int, int]:
    """Input and output channels of a group, I and O."""
    return spec.in_channels // spec.groups, spec.out_channels // spec.groups


def depthwise(spec: ConvSpec) -> bool:
    """Whether a convolution is depthwise: several groups of a single input channel."""
    return spec.groups > 1 and spec.groups == spec.in_channels


def said(size: Iterable[int]) -> str:
    """A kernel size in words: ``5x3``.

    >>> said((5, 3))
    '5x3'
    """
    return "x".join(str(k) for k in size)


def along(spec: ConvSpec, axes: Sequence[int]) -> ConvSpec:
    """The part of a convolution along some axes, pointwise along the others."""

    def only(values: Sequence[T], other: T) -> tuple[T, ...]:
        return tuple(value if axis in axes else other for axis, value in enumerate(values))

    return replace(
        spec,
        kernel_size=only(spec.kernel_size, 1),
        stride=only(spec.stride, 1),
        padding=only(spec.padding, (0, 0)),
        dilation=only(spec.dilation, 1),
        output_padding=only(spec.output_padding, 0),
    )


def pointwise(spec: ConvSpec, ins: int, outs: int, size: tuple[int, ...], bias: bool) -> ConvSpec:
    """A 1x1 convolution with the groups and the batch of another convolution."""
    return ConvSpec(ins, outs, 1, groups=spec.groups, bias=bias, input_size=size, batch=spec.batch)


def rank_for(chain_of: Callable[[int], Chain], macs: float, most: int) -> int:
    """The largest size from 1 to ``most`` whose chain has at most ``macs``; 1 where there is none.

    Args:
        chain_of: gives the chain of a size; its MACs increase with the size.
    """
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if chain_macs(chain_of(middle)) <= macs else (low, middle - 1)
    return low - low % 8 if _FINE_UP_TO <= low < most else low


def count(subject: Subject, option: str, value: Option, most: int | None = None, step: int = 1) -> int:
    """A numeric option, checked.

    Raises:
        RewriteError: it is not a whole number from ``step`` to ``most``, or no multiple of ``step``.
    """
    whole = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if whole >= step and whole % step == 0 and (most is None or whole <= most):
        return whole
    wanted = f"from {step} to {most}" if most is not None else f"at least {step}"
    if step > 1:
        wanted += f", a multiple of its {step} groups"
    if most is not None:
        wanted += ", where it is exact"
    raise RewriteError(f"{subject.name}: {option}={value!r} is not valid here; give a whole number {wanted}")


def upright(kernel: torch.Tensor, replacement: Replacement) -> torch.Tensor:
    """The layer's kernel with output before input channels, also of a transposed layer."""
    turned = any(conv.spec.transposed for conv in replacement.convs)
    return kernel.transpose(1, 2) if turned else kernel


def as_weight(kernel: torch.Tensor, spec: ConvSpec) -> torch.Tensor:
    """A kernel (groups, out / groups, in / groups, *kernel_size) in the shape of its module's ``weight``."""
    parts = kernel.transpose(1, 2) if spec.transposed else kernel
    shape = (spec.in_channels if spec.transposed else spec.out_channels, -1, *spec.kernel_size)
    return parts.reshape(shape)


def activated(subject: Subject, activation: str) -> str:
    """The class of ``torch.nn`` between two stages, checked.

    Raises:
        RewriteError: it is not ReLU.
    """
    if activation != "ReLU":
        raise RewriteError(
            f"{subject.name}: activation={activation!r} cannot start at the linear composition; only 'ReLU' "
            f"lets through unchanged what is shifted far enough"
        )
    return "ReLU"
