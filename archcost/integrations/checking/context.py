"""Remarks AC2xx: what the layers see, and what they never look at."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from archcost.integrations.checking.case import Case, Gain, Remark, described
from archcost.rewriting.advice import read_taps
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec

__all__ = ["context"]

# Share of the model's MACs in convolutions that add no context, from which they are remarked on.
_UNPRODUCTIVE = 0.25
# Positions of the joined map; less is what any pooling with an even window does.
_APART = 1.0
# Share of the window of the last convolution that is never read.
_UNREAD = 0.1


def context(case: Case) -> Iterator[Remark]:
    """The remarks on receptive fields, kernels and strides."""
    yield from _unproductive(case)
    yield from _misaligned(case)
    yield from _holes(case)
    for subject in case.open:
        yield from _beyond(subject)
    yield from _skipping(case)


def _unproductive(case: Case) -> Iterator[Remark]:
    named = {one.module for one in case.fields_findings if one.kind == "unproductive"}
    # What is called several times refines; what strides has another purpose.
    once = (one for one in case.open if len(one.ops) == 1 and max(one.spec.stride) == 1)
    found = [one for one in once if one.name in named]
    if sum(one.macs for one in found) < _UNPRODUCTIVE * case.analysis.total.macs:
        return
    whole = "x".join(str(axis.size) for axis in case.analysis.fields.axes)
    for one in found:
        says = f"adds no context: each position of its input sees all of the {whole} image already"
        yield Remark("AC201", one.name, described(one), says, spec=one.spec)


def _misaligned(case: Case) -> Iterator[Remark]:
    for one in case.fields_findings:
        if one.kind == "misaligned" and one.amount >= _APART:
            positions = f"{one.amount:g} position{'s' * (one.amount != 1)}"
            says = f"joins branches whose windows are {positions} apart"
            yield Remark("AC202", one.module, case.type_name(one.module), says)


def _holes(case: Case) -> Iterator[Remark]:
    """The dilated convolutions of a model whose last convolution does not see all of its window."""
    last = max(case.open, key=lambda one: one.ops[-1].index, default=None)
    shares = {one.module: one.amount for one in case.fields_findings if one.kind == "uncovered"}
    if last is None or shares.get(last.name, 0.0) < _UNREAD:
        return
    for one in case.open:
        if max(one.spec.dilation) > 1:
            says = f"leaves holes: {100 * shares[last.name]:.0f} % of the window of {last.name} is never read"
            yield Remark("AC203", one.name, described(one), says, spec=one.spec)


def _beyond(subject: Subject) -> Iterator[Remark]:
    spec = subject.spec
    if spec.transposed or spec.padding_mode != "zeros":
        return
    read = [read_taps(subject.specs, axis) for axis in range(spec.axes)]
    used, whole = prod(map(len, read)), prod(spec.kernel_size)
    if used < whole:
        size = "x".join(map(str, spec.input_size))
        says = f"reads its {size} input with {used} of its {whole} taps, the others read only padding"
        weights = spec.in_channels // spec.groups * spec.out_channels
        gain = Gain(
            (spec.params, spec.params - weights * (whole - used)),
            (subject.macs, subject.macs * used // whole),
        )
        then = "the same result at this input size"
        yield Remark("AC204", subject.name, described(subject), says, then, gain, spec)


def _skipping(case: Case) -> Iterator[Remark]:
    """Strided convolutions that skip positions of a map which nothing else reads."""
    shares = {one.name: share for one in case.open if (share := _read(one.spec)) < 1}
    skipping = {op.index for one in case.open if one.name in shares for op in one.ops}
    others = {storage for op in case.analysis.trace.ops if op.index not in skipping for storage in op.reads}
    for one in case.open:
        if one.name in shares and not any(op.args[0].storage in others for op in one.ops):
            unread = f"never reads {100 * (1 - shares[one.name]):.0f} % of its input, nor does another layer"
            says = f"{unread}: its stride is larger than its kernel; an average pooling before it keeps them"
            yield Remark("AC205", one.name, described(one), says, spec=one.spec)


def _read(spec: ConvSpec) -> float:
    """The share of the positions of its input that a convolution reads."""
    if spec.transposed:
        return 1.0
    axes = zip(spec.stride, spec.extent, spec.kernel_size, spec.input_size, strict=True)
    return prod(k / s for s, extent, k, n in axes if s > extent and n > s)
