"""Advice: what to know about a convolution beyond any rewrite, and why some large kernels should stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from archcost.rewriting.proposal import Advice, Proposal
from archcost.rewriting.subjects import Subject

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
    """Taps that never meet the input: the kernel reaches beyond its map whatever the position."""
    spec: Any = subject.spec
    for axis, (k, d, n, s, (low, _), out) in enumerate(
        zip(
            *(spec.kernel_size, spec.dilation, spec.input_size, spec.stride, spec.padding, spec.output_size),
            strict=True,
        )
    ):
        used = sum(any(0 <= p * s + t * d - low < n for p in range(out)) for t in range(k))
        # Each position uses these on average: a tap that meets the map once is hardly worth its cost.
        met = sum(0 <= p * s + t * d - low < n for t in range(k) for p in range(out)) / (k * out)
        if used < k:
            return (
                f"of the {k} taps along axis {axis} only {used} can ever meet its map of {n}: a kernel of "
                f"{used} computes the same here"
            )
        if 1 - met > _WASTED and k > 3:
            return (
                f"its kernel of {k} on a map of {n} meets padding with {1 - met:.0%} of its taps along axis "
                f"{axis}: a smaller one would lose little"
            )
    return None


def _lone(subject: Subject, proposed: set[str]) -> str | None:
    spec: Any = subject.spec
    if max(spec.kernel_size) > 1 or subject.name in proposed:
        return None
    return "a 1x1 convolution mixes channels and never positions: there is no smaller kernel"


def _shallow(subject: Subject) -> str | None:
    spec: Any = subject.spec
    depth = subject.around.costs.total.depth
    if depth > _SHALLOW or max(spec.extent) < 5:
        return None
    return (
        f"the network has {depth} weighted layers and sees far by this kernel of {max(spec.extent)} alone: a "
        f"stack in its place keeps the field, a single small kernel would not"
    )


def _slower(subject: Subject, proposals: Sequence[Proposal]) -> str | None:
    """A large kernel that its fastest path runs faster than any stack of small ones."""
    stacks = [one for one in proposals if one.rule == "small_kernels" and one.name == subject.name]
    measured = [one for one in stacks if one.speedup is not None]
    if not measured or any(one.speedup >= 1 for one in measured if one.speedup is not None):
        return None
    best = max(measured, key=lambda one: one.speedup or 0.0)
    return f"its large kernel should stay: the fastest stack of small ones is {best.objection}"
