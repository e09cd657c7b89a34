"""Advice: what to know about a convolution beyond any rewrite, and why some large kernels should stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from archcost.latency.timing.thresholds import NOISE
from archcost.rewriting.proposal import Advice, Proposal
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec

__all__ = ["advice_for"]

# Weighted layers up to which a network is so shallow that it sees far by its large kernels alone.
_SHALLOW = 4
# Of the taps on an axis, the share that meets padding alone from where it is worth a word.
_WASTED = 0.25


def advice_for(subjects: Iterable[Subject], proposals: Sequence[Proposal]) -> Iterator[Advice]:
    """In order of definition; at most one of each kind a layer."""
    proposed = {name for one in proposals for name in one.replacement.chains}
    for subject in subjects:
        if not subject.specs:
            continue
        for text in (
            _wasted(subject),
            _lone(subject, proposed),
            _shallow(subject),
            _slower(subject, proposals),
        ):
            if text is not None:
                yield Advice(subject.name, text)


def _wasted(subject: Subject) -> str | None:
    """Taps that meet nothing but zeros: the kernel reaches beyond its map."""
    spec = subject.spec
    if spec.transposed or spec.padding_mode != "zeros":
        return None
    for axis, k in enumerate(spec.kernel_size):
        met = [_meetings(one, axis) for one in subject.specs]
        used = [tap for tap in range(k) if any(call[tap] for call in met)]
        if len(used) < k and used and used[-1] - used[0] + 1 == len(used):
            return (
                f"of the {k} taps along axis {axis} only {len(used)} ever meet its map of "
                f"{spec.input_size[axis]}: a kernel of {len(used)} computes the same at this size"
            )
        share = sum(map(sum, met)) / sum(k * one.output_size[axis] for one in subject.specs)
        if 1 - share > _WASTED and k > 3:
            return (
                f"its kernel of {k} on a map of {spec.input_size[axis]} meets padding with {1 - share:.0%} "
                f"of its taps along axis {axis}: a smaller one would lose little"
            )
    return None


def _meetings(spec: ConvSpec, axis: int) -> list[int]:
    """By tap, at how many positions it meets the map."""
    k, d, n = spec.kernel_size[axis], spec.dilation[axis], spec.input_size[axis]
    s, (low, _), out = spec.stride[axis], spec.padding[axis], spec.output_size[axis]
    return [sum(0 <= p * s + t * d - low < n for p in range(out)) for t in range(k)]


def _lone(subject: Subject, proposed: set[str]) -> str | None:
    spec = subject.spec
    if max(spec.kernel_size) > 1 or spec.groups > 1 or subject.name in proposed:
        return None
    return "a 1x1 convolution mixes channels and never positions: there is no smaller kernel"


def _shallow(subject: Subject) -> str | None:
    spec = subject.spec
    depth = subject.survey.costs.total.depth
    if depth > _SHALLOW or max(spec.kernel_size) < 5:
        return None
    return (
        f"the network has {depth} weighted layers and sees far by this kernel of {max(spec.kernel_size)} "
        f"alone: a stack in its place keeps the field, a single small kernel would not"
    )


def _slower(subject: Subject, proposals: Sequence[Proposal]) -> str | None:
    """A large kernel that its fastest path runs faster than any stack of small ones."""
    stacks = [one for one in proposals if one.rule == "small_kernels" and one.name == subject.name]
    measured = [one for one in stacks if one.speedup is not None]
    if not measured or any((one.speedup or 0.0) >= 1 - NOISE for one in measured):
        return None
    best = max(measured, key=lambda one: one.speedup or 0.0)
    return f"its large kernel should stay: the fastest stack of small ones is slower here: {best.times_text}"
