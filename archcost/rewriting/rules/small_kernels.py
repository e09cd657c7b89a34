"""small_kernels: a KxK convolution as a stack of 3x3, with the same receptive field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import gcd, prod, sqrt

import torch

from archcost.errors import Refusal, RewriteError
from archcost.merging.chain import Activation, Chain, ChainStep, Conv
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import RuleOptions
from archcost.rewriting.rules.linear import (
    LinearChain,
    activated,
    as_weight,
    chain_macs,
    count,
    of_group,
    rank_for,
    said,
    taps,
)
from archcost.rewriting.rules.stacking import exact_middle, jumps, parted, stages
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec
from archcost.weights.lowrank import root
from archcost.weights.moments import Moments

__all__ = ["SmallKernels"]

_PADDINGS = ("first", "each")


class SmallKernels(LinearChain):
    """KxK -> a stack of 3x3 with the same receptive field.

    K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR
    2015); C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (CVPR 2016).

    Options: ``middle``, the channels between the stages, by default those of the narrower side;
    ``padding="first"`` pads the first stage alone, which is exact and enlarges the maps between, and
    ``padding="each"`` pads every stage as most networks do, which is inexact at the border;
    ``activation="ReLU"`` adds an activation function behind every stage but the last, which at first passes
    everything.

    The first stage has the stride, and the others are sized to keep the field: a 5x5 of stride 2 becomes a
    3x3 of stride 2 and a 2x2. Axes are stacked independently, with 1s where an axis is finished; dilations
    keep the distance of the taps.
    """

    name = "small_kernels"
    change = "KxK -> 3x3, 3x3, ..."
    break_even = (
        "k1 I M + (k2 + ...) M^2 + kn M O < K^2 I O with n stages of k1 ... kn taps, M channels between, I "
        "and O in and out of a group: M < 25 I O / (9 (I + O)) for a 5x5 without stride"
    )

    def unfit(self, spec: ConvSpec) -> Refusal | None:
        size = said(spec.kernel_size)
        if max(spec.kernel_size) <= 3:
            return Refusal(f"its kernel of {size} is small already")
        if spec.transposed:
            return Refusal("it is transposed: its stride would come last, on maps as large as the output")
        if len(stages(spec)) == 1:
            return Refusal(
                f"with a stride of {said(spec.stride)} no stack of smaller kernels has the receptive field "
                f"of its "
                f"kernel of {size}"
            )
        return None

    def cheapest(self, spec: ConvSpec) -> Chain:
        return _chain(spec, 1)

    def options(self, subject: Subject, ratio: float) -> Iterable[RuleOptions]:
        """The channels for the ratio, for each padding, and those of the narrower side where they save
        MACs."""
        spec = subject.spec
        found: list[RuleOptions] = []
        for padding in _PADDINGS if _each(spec) is not None else _PADDINGS[:1]:
            middle = rank_for(partial(_chain, spec, padding=padding), ratio * spec.macs, exact_middle(spec))
            extra = {"padding": padding} if padding == "each" else {}
            found.append({"middle": middle * spec.groups, **extra})
        narrow = min(of_group(spec))
        if chain_macs(_chain(spec, narrow)) < spec.macs:
            found.insert(1, {"middle": narrow * spec.groups})
        return found

    def lossless(self, spec: ConvSpec) -> Iterator[RuleOptions]:
        yield {"middle": exact_middle(spec) * spec.groups}

    def built(
        self,
        subject: Subject,
        middle: int | None = None,
        padding: str = "first",
        activation: str | None = None,
    ) -> Replacement:
        spec = self.checked(subject)
        wanted = min(of_group(spec)) * spec.groups if middle is None else middle
        middle = count(subject, "middle", wanted, step=spec.groups)
        if padding not in _PADDINGS:
            raise RewriteError(
                f"{subject.name}: padding={padding!r} is not valid; give one of {', '.join(_PADDINGS)}"
            )
        if padding == "each":
            if _each(spec) is None:
                raise RewriteError(
                    f"{subject.name}: padding='each' needs symmetric padding by zeros that stages of odd "
                    f"kernels "
                    f"can share; give padding='first'"
                )
            if activation is not None:
                raise RewriteError(
                    f"{subject.name}: an activation starts as the linear chain by a shift that zeros padded "
                    f"behind "
                    f"it do not have; give padding='first', or no activation"
                )
        per_group = middle // spec.groups
        chain = _chain(spec, per_group, padding)
        if activation is not None:
            chain = _with_activations(chain, activated(subject, activation))
        note = _border(spec) if padding == "each" else ""
        linear = padding == "first" and activation is None
        return self.made(subject, chain, linear and per_group >= exact_middle(spec), note)

    def bound(self, spec: ConvSpec, variant: str | None = None) -> float:
        """The number of middle channels, of all groups."""
        ins, outs = of_group(spec)
        first, *between, last = (prod(kernel) for kernel in stages(spec))
        linear, square = first * ins + last * outs, sum(between)
        whole = taps(spec) * ins * outs
        if not square:
            return spec.groups * whole / linear
        return spec.groups * (sqrt(linear * linear + 4 * square * whole) - linear) / (2 * square)

    def factors(
        self, kernel: torch.Tensor, replacement: Replacement, moments: Moments | None
    ) -> list[torch.Tensor]:
        """Stages split off the end one by one, by the SVD of the kernel spread over pairs of taps (`parted`).

        With moments under the covariance of the channels. Exact where ``middle`` is large enough.
        """
        specs = [conv.spec for conv in replacement.convs]
        middle = specs[0].out_channels // specs[0].groups
        rest, channels = kernel, None
        if moments is not None and kernel.shape[2] > 1:
            channels = root(moments.marginal((0,)))
            rest = torch.einsum("goi...,gij->goj...", kernel, channels)
        jump = jumps(specs[0])
        made: list[torch.Tensor] = []
        for spec in reversed(specs[1:]):
            last, rest = parted(rest, spec.kernel_size, jump, middle)
            made.append(last)
        if channels is not None:
            flat = rest.transpose(1, 2).flatten(2)
            flat = torch.linalg.solve_triangular(channels.mT, flat, upper=True)
            rest = flat.reshape(rest.transpose(1, 2).shape).transpose(1, 2)
        kernels = [rest, *reversed(made)]
        return [as_weight(one, spec) for one, spec in zip(kernels, specs, strict=True)]


def _chain(spec: ConvSpec, middle: int, padding: str = "first") -> Chain:
    """The chain with ``middle`` channels of a group between the stages."""
    kernels = stages(spec)
    columns = (spec.stride, spec.dilation)
    further = tuple(d // gcd(s, d) for s, d in zip(*columns, strict=True))
    wide = middle * spec.groups
    pads: list[int | Sequence[int | tuple[int, int]]] = [spec.padding, *(0 for _ in kernels[1:])]
    if padding == "each":
        each = _each(spec)
        assert each is not None
        pads = list(each)
    now = replace(spec, out_channels=wide, kernel_size=kernels[0], padding=pads[0], bias=False)
    steps = [Conv(now)]
    for kernel, pad in zip(kernels[1:], pads[1:], strict=True):
        last = len(steps) == len(kernels) - 1
        dilation = tuple(d if k > 1 else 1 for d, k in zip(further, kernel, strict=True))
        now = ConvSpec(
            wide,
            spec.out_channels if last else wide,
            kernel,
            padding=pad,
            dilation=dilation,
            groups=spec.groups,
            bias=spec.bias and last,
            input_size=now.output_size,
            batch=spec.batch,
        )
        steps.append(Conv(now))
    return tuple(steps)


def _each(spec: ConvSpec) -> list[tuple[int, ...]] | None:
    """The padding of each stage where all stages can pad symmetrically by zeros; else None."""
    pairs = spec.padding
    if spec.padding_mode != "zeros" or any(low != high for low, high in pairs) or not any(map(max, pairs)):
        return None
    later = stages(spec)[1:]
    if any(k % 2 == 0 for kernel in later for k in kernel):
        return None
    stride, dilation = spec.stride, spec.dilation
    pads = [
        tuple((k - 1) // 2 * (d // gcd(s, d)) for k, s, d in zip(kernel, stride, dilation, strict=True))
        for kernel in later
    ]
    first = tuple(
        low - s * sum(pad[axis] for pad in pads)
        for axis, ((low, _), s) in enumerate(zip(pairs, stride, strict=True))
    )
    return None if min(first) < 0 else [first, *pads]


def _border(spec: ConvSpec) -> str:
    """The note on where padding in each stage is inexact."""
    each = _each(spec)
    assert each is not None
    ring = max(sum(pad[axis] for pad in each[1:]) for axis in range(spec.axes))
    return f"padding in each stage: exact inside, inexact in the outer {ring} positions at each border"


def _with_activations(chain: Chain, kind: str) -> Chain:
    steps: list[ChainStep] = []
    for step in chain:
        assert isinstance(step, Conv)
        steps += [Conv(replace(step.spec, bias=True)), Activation(kind)]
    return tuple(steps[:-1])


RULES, ORDER = (SmallKernels(),), 10
