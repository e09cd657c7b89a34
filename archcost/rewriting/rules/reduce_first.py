"""reduce_first: a 1x1 convolution before a wide parallel branch, as in Inception."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from archcost.errors import Refusal
from archcost.merging.chain import Activation, Chain, Conv
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import RuleOptions
from archcost.rewriting.rules.bottleneck import Bottleneck, bottleneck_chain, narrowed
from archcost.rewriting.rules.linear import (
    LinearChain,
    activated,
    as_weight,
    count,
    depthwise,
    of_group,
    rank_for,
    taps,
)
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec
from archcost.trace.graph import Op, TensorRef, Trace
from archcost.weights.moments import Moments
from archcost.weights.unfolded import IN, Unfolded

__all__ = ["ReduceFirst"]


class ReduceFirst(LinearChain):
    """KxK -> 1x1, KxK in a branch of several that read the same input and are concatenated.

    C. Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015).

    Options: ``channels`` between the two, by default half; ``activation="ReLU"`` adds an activation function
    behind the 1x1, as Inception has it, which at first passes everything. The padding is then in the 1x1, so
    that padding is shifted like the rest; else it is in the KxK.
    """

    name = "reduce_first"
    change = "KxK -> 1x1, KxK in a branch beside others"
    break_even = (
        "C2 < K^2 I O / (s^2 I + K^2 O): C2 channels between, I and O channels in and out of a group, s the "
        "stride"
    )

    def unfit(self, spec: ConvSpec) -> Refusal | None:
        if spec.transposed:
            return Refusal("it is transposed: bottleneck reduces it")
        if taps(spec) == 1:
            return Refusal("a 1x1 is itself what would be put first")
        if depthwise(spec):
            return Refusal("it is depthwise: a group has a single input channel, nothing to reduce")
        return None

    def refusal(self, subject: Subject) -> Refusal | None:
        return self.unfit(subject.spec) or _alone(subject) or super().refusal(subject)

    def cheapest(self, spec: ConvSpec) -> Chain:
        return bottleneck_chain(spec, 1, 1, "in")

    def options(self, subject: Subject, ratio: float) -> Iterator[RuleOptions]:
        spec = subject.spec
        rank = rank_for(lambda n: bottleneck_chain(spec, n, n, "in"), ratio * spec.macs, _full(spec))
        yield {"channels": rank * spec.groups}

    def lossless(self, spec: ConvSpec) -> Iterator[RuleOptions]:
        yield {"channels": _full(spec) * spec.groups}

    def built(
        self, subject: Subject, channels: int | None = None, activation: str | None = None
    ) -> Replacement:
        spec = self.checked(subject)
        most = _full(spec) * spec.groups
        half = max(most // 2 // spec.groups, 1) * spec.groups
        channels = count(subject, "channels", half if channels is None else channels, most, spec.groups)
        chain = bottleneck_chain(spec, channels // spec.groups, 1, "in")
        if activation is None:
            return self.made(subject, chain, channels == most)
        kind = activated(subject, activation)
        point, wide = (step.spec for step in chain if isinstance(step, Conv))
        point = replace(point, padding=spec.padding, padding_mode=spec.padding_mode, bias=True)
        wide = replace(wide, padding=0, padding_mode="zeros", input_size=point.output_size, bias=True)
        return self.made(subject, (Conv(point), Activation(kind), Conv(wide)), False)

    def bound(self, spec: ConvSpec, variant: str | None = None) -> float:
        """The number of channels between."""
        return spec.groups * Bottleneck().bound(spec, "in")

    def factors(self, kernel: Tensor, replacement: Replacement, moments: Moments | None) -> list[Tensor]:
        """First kernels as `bottleneck` has them in its form "in"."""
        point, wide = (conv.spec for conv in replacement.convs)
        front, behind = narrowed(kernel, point.out_channels // point.groups, None, moments)
        return [as_weight(front, point), as_weight(behind, wide)]

    def lost(self, kernel: Unfolded, replacement: Replacement) -> float:
        point = replacement.convs[0].spec
        return kernel.lost(point.out_channels // point.groups, (IN,))


def _full(spec: ConvSpec) -> int:
    ins, outs = of_group(spec)
    return min(ins, outs * taps(spec))


def _alone(subject: Subject) -> Refusal | None:
    """Why it is not a branch whose output is concatenated with those of others of the same input."""
    trace, op = subject.survey.trace, subject.ops[0]
    x = op.args[0]
    if not isinstance(x, TensorRef):
        return Refusal("the operation that makes its input is not known")
    flow = subject.survey.flow
    written = flow.last_write(x.storage, op.index)
    readers = [
        other
        for other in flow.takers(x.storage)
        if other.index != op.index
        and x.storage not in other.writes
        and flow.last_write(x.storage, other.index) == written
        and not _concatenates(other)
    ]
    if not readers:
        return Refusal("no other layer reads its input: bottleneck's form 'in' is the same change there")
    mine = _concatenations(trace, op)
    if not any(mine & _concatenations(trace, other) for other in readers):
        return Refusal(
            "other layers read its input, but their outputs are not concatenated with its own: bottleneck's "
            "form 'in' is the same change there"
        )
    return None


def _concatenations(trace: Trace, op: Op) -> set[int]:
    """Indices of the first concatenations that the output of an operation flows into."""
    reached, found = {op.index}, set()
    for later in trace.ops[op.index + 1 :]:
        if reached.isdisjoint(later.fed_by):
            continue
        if _concatenates(later):
            found.add(later.index)
        else:
            reached.add(later.index)
    return found


def _concatenates(op: Op) -> bool:
    return op.base == "aten.cat"


RULES, ORDER = (ReduceFirst(),), 50
