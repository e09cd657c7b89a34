"""bottleneck: a KxK convolution on fewer channels, between 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod, sqrt

import torch
from torch import Tensor

from archcost.errors import Refusal, RewriteError
from archcost.merging.chain import Chain, Conv
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import RuleOptions
from archcost.rewriting.rules.linear import (
    LinearChain,
    as_weight,
    chain_macs,
    count,
    depthwise,
    of_group,
    pointwise,
    rank_for,
    taps,
    upright,
)
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec
from archcost.weights.lowrank import leading, root
from archcost.weights.moments import Moments
from archcost.weights.unfolded import IN, OUT, Unfolded

__all__ = ["Bottleneck", "bottleneck_chain", "narrowed"]

_FORMS = ("both", "out", "in")
_SWEEPS = 3


class Bottleneck(LinearChain):
    """KxK -> 1x1, KxK, 1x1, a Tucker-2 factorisation of the kernel between its channels.

    Y.-D. Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
    Applications" (ICLR 2016). A single 1x1 behind the KxK is reduced-rank regression on the outputs, as in
    X. Zhang, J. Zou, K. He and J. Sun, "Accelerating Very Deep Convolutional Networks for Classification and
    Detection" (IEEE TPAMI 2016).

    Options: ``form``, "both", "out" (KxK, 1x1) or "in" (1x1, KxK); ``rank_in`` and ``rank_out``, the channels
    of a group before and behind the KxK, by default with half the MACs.

    The KxK keeps the stride and all padding: a 1x1 without bias maps padding to padding in every
    ``padding_mode``. Transposed convolutions work alike.
    """

    name = "bottleneck"
    change = "KxK -> 1x1, KxK, 1x1"
    break_even = (
        "out: R < K^2 I O / (K^2 I + O); in: R < K^2 I O / (s^2 I + K^2 O); both: "
        "s^2 I R1 + K^2 R1 R2 + R2 O < K^2 I O (0.895 C for a 3x3 of equal channels): R channels between, "
        "I and O in and out of a group, s the stride"
    )

    def unfit(self, spec: ConvSpec) -> Refusal | None:
        if depthwise(spec):
            return Refusal("it is depthwise: a group has a single input channel, nothing to reduce")
        return None

    def cheapest(self, spec: ConvSpec) -> Chain:
        return min((bottleneck_chain(spec, 1, 1, form) for form in _forms(spec)), key=chain_macs)

    def options(self, subject: Subject, ratio: float) -> Iterator[RuleOptions]:
        """Each form that saves MACs; "both" keeps the same share of the channels on either side."""
        spec = subject.spec
        for form in _forms(spec):
            one, two = _fitting(spec, form, ratio)
            if chain_macs(bottleneck_chain(spec, one, two, form)) < spec.macs:
                yield _options(form, one, two)

    def lossless(self, spec: ConvSpec) -> Iterator[RuleOptions]:
        for form in _forms(spec):
            yield _options(form, *_full(spec, form))

    def built(
        self,
        subject: Subject,
        form: str | None = None,
        rank_in: int | None = None,
        rank_out: int | None = None,
    ) -> Replacement:
        spec = self.checked(subject)
        form = _forms(spec)[0] if form is None else form
        if form not in _forms(spec):
            why = "the same as 'out' for a 1x1" if form in _FORMS else "not valid"
            raise RewriteError(
                f"{subject.name}: form={form!r} is {why}; give one of {', '.join(_forms(spec))}"
            )
        unused = {"in": ("rank_out", rank_out), "out": ("rank_in", rank_in)}.get(form)
        if unused and unused[1] is not None:
            raise RewriteError(f"{subject.name}: form={form!r} takes no {unused[0]}")
        ins, outs = _full(spec, form)
        used = {"in": (rank_in,), "out": (rank_out,)}.get(form, (rank_in, rank_out))
        half_in, half_out = _fitting(spec, form, 0.5) if None in used else (ins, outs)
        one = half_in if rank_in is None else count(subject, "rank_in", rank_in, ins)
        two = half_out if rank_out is None else count(subject, "rank_out", rank_out, outs)
        exact = one == ins and two == outs
        return self.made(subject, bottleneck_chain(spec, one, two, form), exact, variant=form)

    def bound(self, spec: ConvSpec, variant: str | None = None) -> float:
        """The rank; for "both" the share of the channels, ``rank_in / I`` and ``rank_out / O``."""
        ins, outs = of_group(spec)
        k, jump = taps(spec), prod(spec.stride)
        # A transposed layer counts positions of its input, fewer than those of its output.
        front, back = (1, jump) if spec.transposed else (jump, 1)
        if variant == "out":
            return k * ins * outs / (k * ins + back * outs)
        if variant == "in":
            return k * ins * outs / (front * ins + k * outs)
        half = (front * ins * ins + back * outs * outs) / (2 * k * ins * outs)
        return sqrt(half * half + 1) - half

    def factors(self, kernel: Tensor, replacement: Replacement, moments: Moments | None) -> list[Tensor]:
        """The truncated SVD for a single rank, Tucker-2 by alternating SVDs for two.

        Under the covariance of the patches "out" is reduced-rank regression, which is optimal.
        """
        specs = [conv.spec for conv in replacement.convs]
        kernels = narrowed(upright(kernel, replacement), *_ranks_of(specs), moments)
        return [as_weight(one, spec) for one, spec in zip(kernels, specs, strict=True)]

    def lost(self, kernel: Unfolded, replacement: Replacement) -> float:
        front, back = _ranks_of([conv.spec for conv in replacement.convs])
        if front is None:
            assert back is not None
            return kernel.lost(back, (OUT,))
        return kernel.lost(front, (IN,)) if back is None else kernel.lost_between(front, back)


def _ranks_of(specs: list[ConvSpec]) -> tuple[int | None, int | None]:
    """Channels of a group before and behind the KxK; None on a side that is not reduced."""
    front = specs[0].out_channels // specs[0].groups if _pointwise(specs[0]) and len(specs) > 1 else None
    back = specs[-1].in_channels // specs[-1].groups if _pointwise(specs[-1]) else None
    if len(specs) == 2 and back is not None:
        front = None  # both stages of a 1x1 are pointwise: its form is "out"
    return front, back


def narrowed(kernel: Tensor, front: int | None, back: int | None, moments: Moments | None) -> list[Tensor]:
    """First kernels for a KxK between ``front`` and ``back`` channels, None for a side that is not reduced.

    Args:
        kernel: (groups, out, in, *kernel_size).

    Returns:
        Kernels of the two or three stages, (groups, out, in, *kernel_size) each.
    """
    groups, outs, ins = kernel.shape[:3]
    space = kernel.shape[3:]
    ones = (1,) * len(space)
    core = kernel.reshape(groups, outs, ins, -1)
    if front is None:
        assert back is not None
        matrix = core.flatten(2)
        last = leading(matrix, back, None if moments is None else moments.covariance)
        core = (last.mT @ matrix).reshape(groups, back, ins, *space)
        return [core, last.reshape(groups, outs, back, *ones)]
    weighed, channels = core, None
    if moments is not None:
        channels, around = root(moments.marginal((0,))), root(moments.marginal(range(1, 1 + len(space))))
        weighed = torch.einsum("goik,gij,gkl->gojl", core, channels, around)
        core = torch.einsum("goik,gij->gojk", core, channels)
    last = torch.eye(outs).to(core).expand(groups, outs, outs)
    first = leading(weighed.transpose(1, 2).flatten(2), front)  # (groups, in, front)
    for _ in range(0 if back is None else _SWEEPS):
        assert back is not None
        last = leading(torch.einsum("goik,gir->gork", weighed, first).flatten(2), back)
        seen = torch.einsum("goik,gos->gsik", weighed, last)
        first = leading(seen.transpose(1, 2).flatten(2), front)
    core = torch.einsum("goik,gir,gos->gsrk", core, first, last)
    before = first.mT
    if channels is not None:
        before = torch.linalg.solve_triangular(channels, before, upper=False, left=False)
    kernels = [before.reshape(groups, front, ins, *ones), core.reshape(groups, -1, front, *space)]
    return kernels if back is None else [*kernels, last.reshape(groups, outs, back, *ones)]


def bottleneck_chain(spec: ConvSpec, rank_in: int, rank_out: int, form: str) -> Chain:
    """The chain of a form with some channels of a group; the rank of a side that is not reduced is unused."""
    steps: list[ConvSpec] = []
    ins, outs = of_group(spec)
    one = rank_in if form != "out" else ins
    two = rank_out if form != "in" else outs
    groups = spec.groups
    if form != "out":
        steps.append(pointwise(spec, spec.in_channels, one * groups, spec.input_size, False))
    bias = spec.bias and form == "in"
    steps.append(replace(spec, in_channels=one * groups, out_channels=two * groups, bias=bias))
    if form != "in":
        steps.append(pointwise(spec, two * groups, spec.out_channels, spec.output_size, spec.bias))
    return tuple(Conv(step) for step in steps)


def _options(form: str, one: int, two: int) -> RuleOptions:
    inner = {} if form == "out" else {"rank_in": one}
    return {"form": form, **inner, **({} if form == "in" else {"rank_out": two})}


def _fitting(spec: ConvSpec, form: str, ratio: float) -> tuple[int, int]:
    """Channels of a group before and behind with at most ``ratio`` times the MACs; all on the other side."""
    ins, outs = _full(spec, form)
    most = {"both": min(ins, outs), "in": ins, "out": outs}[form]
    share = rank_for(
        lambda share: bottleneck_chain(spec, *_ranks(spec, form, share), form), ratio * spec.macs, most
    )
    return _ranks(spec, form, share)


def _ranks(spec: ConvSpec, form: str, share: int) -> tuple[int, int]:
    """Channels before and behind; with two ranks ``share`` is the smaller, the other in proportion."""
    ins, outs = _full(spec, form)
    if form != "both":
        return (share, outs) if form == "in" else (ins, share)
    return share * ins // min(ins, outs), share * outs // min(ins, outs)


def _pointwise(spec: ConvSpec) -> bool:
    return taps(spec) == 1


def _forms(spec: ConvSpec) -> tuple[str, ...]:
    return ("out",) if taps(spec) == 1 else _FORMS


def _full(spec: ConvSpec, form: str) -> tuple[int, int]:
    """The ranks at which the chain is exact."""
    ins, outs = of_group(spec)
    k = taps(spec)
    if form == "both":
        return min(ins, outs * k), min(outs, ins * k)
    return (min(ins, outs * k), outs) if form == "in" else (ins, min(outs, ins * k))


RULES, ORDER = (Bottleneck(),), 30
