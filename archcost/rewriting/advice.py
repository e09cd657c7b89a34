"""Advice on convolutions beyond any rewrite: wasted taps, shallow networks, large kernels that should
stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from archcost.latency.timing.thresholds import NOISE
from archcost.rewriting.proposal import Advice, Proposal
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec

__all__ = ["advice_for", "read_taps"]

# A network of at most so many weighted layers has its receptive field from its large kernels alone.
_SHALLOW = 4
# Share of an axis's taps over all positions that read padding, from which advice is given.
_WASTED = 0.25


def advice_for(subjects: Iterable[Subject], proposals: Sequence[Proposal]) -> Iterator[Advice]:
    """The advice for each layer, in order of definition; each kind at most once a layer."""
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
    """Advice where taps read nothing but zeros: the kernel reaches beyond its map."""
    spec = subject.spec
    if spec.transposed or spec.padding_mode != "zeros":
        return None
    for axis, k in enumerate(spec.kernel_size):
        met = [_meetings(one, axis) for one in subject.specs]
        used = read_taps(subject.specs, axis)
        if len(used) < k and used and used[-1] - used[0] + 1 == len(used):
            return (
                f"only {len(used)} of its {k} taps along axis {axis} ever read its input of size "
                f"{spec.input_size[axis]}, the others padding: a kernel of {len(used)} computes the same at "
                f"this size"
            )
        share = sum(map(sum, met)) / sum(k * one.output_size[axis] for one in subject.specs)
        if 1 - share > _WASTED and k > 3:
            return (
                f"{1 - share:.0%} of the reads of its kernel of size {k} along axis {axis} are padding, on "
                f"an input of "
                f"size {spec.input_size[axis]}: a smaller kernel would lose little"
            )
    return None


def read_taps(specs: Sequence[ConvSpec], axis: int) -> list[int]:
    """The taps along an axis that read the input, not only padding, in any of the calls."""
    met = [_meetings(one, axis) for one in specs]
    return [tap for tap in range(specs[0].kernel_size[axis]) if any(call[tap] for call in met)]


def _meetings(spec: ConvSpec, axis: int) -> list[int]:
    """For each tap the number of output positions at which it reads the input, not padding."""
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
    layers = f"{depth} weighted layer{'s' * (depth != 1)}"
    return (
        f"the network has only {layers}, and its receptive field comes from this kernel of size "
        f"{max(spec.kernel_size)}: a stack in its place keeps the field, a single small kernel would not"
    )


def _slower(subject: Subject, proposals: Sequence[Proposal]) -> str | None:
    """Advice where a large kernel was measured to be faster than any stack of small kernels."""
    stacks = [one for one in proposals if one.rule == "small_kernels" and one.name == subject.name]
    measured = [one for one in stacks if one.speedup is not None]
    if not measured or any((one.speedup or 0.0) >= 1 - NOISE for one in measured):
        return None
    best = max(measured, key=lambda one: one.speedup or 0.0)
    return f"its large kernel should stay: the fastest stack of small ones is slower here: {best.times_text}"
