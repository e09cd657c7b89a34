"""Remarks AC1xx and AC4xx: what the rewrite rules propose, and layouts and paths measured to be faster."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from archcost.errors import Refusal
from archcost.integrations.checking.case import Case, Gain, Remark, described
from archcost.integrations.checking.codes import CODES
from archcost.merging.chain import Conv
from archcost.rewriting.proposal import Proposal, best_of
from archcost.rewriting.proposing import proposal_of, proposals_of, with_times
from archcost.rewriting.rule import RuleOptions, get
from archcost.rewriting.rules.layout import faster
from archcost.spec import ConvSpec

__all__ = ["rewrites"]

# A chain of small kernels through fewer channels is another layer than the kernel, such as a stem's 3 of RGB.
_LEAST_CHANNELS = 16
# MACs saved for each byte that is written more: below, memory decides (a depthwise 7x7 saves 3).
_LEAST_INTENSITY = 20
# Of an input in a branch over the channels of the output.
_WIDE = 2
_RATIO = 0.5
_LEAST_SPEEDUP = 1.1


def rewrites(case: Case, codes: Collection[str]) -> Iterator[Remark]:
    """The remarks of the selected codes, by code and in order of definition."""
    wanted = {code: str(one.rule) for code, one in CODES.items() if code in codes and code in _SAYS}
    rules = list(wanted.values())
    found = proposals_of(case.survey, rules=rules, ratios=_RATIO, errors=False, progress=False)
    made = [
        _remark(code, case, one)
        for code, rule in wanted.items()
        for one in _chosen(code, case, [one for one in found.proposals if one.rule == rule])
    ]
    # A layer with fewer inputs has a smaller kernel to replace.
    reduced = {one.module for one in made if one.code == "AC105"}
    yield from (one for one in made if not (one.code == "AC101" and one.module in reduced))
    yield from _timed(case, codes)


def _chosen(code: str, case: Case, proposals: Sequence[Proposal]) -> Iterable[Proposal]:
    if code == "AC101":
        return _stacks(case, proposals)
    if code == "AC105":
        return _reductions(case, proposals)
    if code == "AC106":
        proposals = [p for p in proposals if p.exact and p.after.macs < p.before.macs]
    if code == "AC107":
        rows = (p for p in proposals if len(p.old) > 1 and "block" not in p.options)
        proposals = [p for p in rows if p.exact and p.after.macs < p.before.macs]
    if case.slower_too:
        return _smallest(proposals)
    return best_of(proposals, _RATIO)


def _smallest(proposals: Iterable[Proposal]) -> list[Proposal]:
    """The proposal with the fewest MACs for each layer."""
    found: dict[str, Proposal] = {}
    for one in proposals:
        if one.name not in found or one.after.macs < found[one.name].after.macs:
            found[one.name] = one
    return list(found.values())


def _stacks(case: Case, proposals: Sequence[Proposal]) -> Iterator[Proposal]:
    """Stacks with the channels of the narrower side, padded as most networks do where that is possible."""
    rule = get("small_kernels")
    by_name: dict[str, list[Proposal]] = {}
    for one in proposals:
        by_name.setdefault(one.name, []).append(one)
    for name, known in by_name.items():
        subject = case.survey.subjects[name]
        narrow = min(subject.spec.in_channels, subject.spec.out_channels)
        if narrow < _LEAST_CHANNELS:
            continue
        each = any(one.options.get("padding") == "each" for one in known)
        options: list[RuleOptions] = [{"middle": narrow, "padding": "each"}] if each else []
        options.append({"middle": narrow})
        made = [proposal_of(rule, subject, option, errors=False) for option in options]
        stacks = [one for one in with_times(made, case.survey.store)[0] if _outweighs(one)]
        timed = [one for one in (*stacks, *known) if one.speedup is not None]
        if timed and not case.slower_too and not any(one.recommended for one in timed):
            continue
        stacks.sort(key=lambda one: -(one.speedup or 0.0))
        yield from [one for one in stacks if one.recommended or case.slower_too][:1]


def _reductions(case: Case, proposals: Iterable[Proposal]) -> Iterator[Proposal]:
    """Wide inputs reduced to as many channels as there are outputs."""
    rule = get("reduce_first")
    for name in dict.fromkeys(one.name for one in proposals):
        subject = case.survey.subjects[name]
        if subject.spec.in_channels >= _WIDE * subject.spec.out_channels:
            made = proposal_of(rule, subject, {"channels": subject.spec.out_channels}, errors=False)
            [one], _ = with_times([made], case.survey.store)
            if one.recommended or case.slower_too:
                yield one


def _outweighs(one: Proposal) -> bool:
    """Whether it is a stack of 3x3 that saves enough MACs for the maps written between its layers."""
    if any(k not in (1, 3) for conv in _convs(one) for k in conv.kernel_size):
        return False  # what a stride or an even kernel leaves is no stack that anybody builds
    saved = one.before.macs - one.after.macs
    written = one.after.activation_bytes - one.before.activation_bytes
    return saved > 0 and saved >= _LEAST_INTENSITY * written


def _timed(case: Case, codes: Collection[str]) -> Iterator[Remark]:
    """Remarks on the layouts (AC401) and paths (AC402) that were measured to be faster."""
    for subject in case.open:
        found = faster(subject)
        for one in () if isinstance(found, Refusal) else found:
            code = "AC401" if one.path == "native" else "AC402"
            if code in codes and one.old_s >= _LEAST_SPEEDUP * one.new_s:
                says = f"in {one.layout}" if code == "AC401" else f"by path {one.path}"
                gain = Gain((0, 0), (0, 0), (1e3 * one.old_s, 1e3 * one.new_s), one.disturbed)
                yield Remark(code, subject.name, described(subject), says, gain=gain, spec=subject.spec)


def _remark(code: str, case: Case, one: Proposal) -> Remark:
    subject = case.survey.subjects.get(one.name)
    what = case.analysis.trace.modules[one.name].type_name if subject is None else described(subject)
    then = "the same result" if one.exact else "not the same result"
    if code == "AC101":
        then = f"same receptive field, {then}"
    before, after = one.before, one.after
    gain = Gain((before.params, after.params), (before.macs, after.macs), _ms(one), one.disturbed)
    covers = tuple(one.replacement.chains) if one.options.get("how") == "stride" else ()
    return Remark(code, one.name, what, _SAYS[code](case, one), then, gain, one.old[0], covers=covers)


def _ms(one: Proposal) -> tuple[float, float] | None:
    if one.race is not None:
        return one.race.old_ms, one.race.new_ms
    old, new = one.before.latency_ms, one.after.latency_ms
    return None if old is None or new is None else (old, new)


def _convs(one: Proposal) -> list[ConvSpec]:
    return [step.spec for step in one.replacement.chain if isinstance(step, Conv)]


def _size(spec: ConvSpec) -> str:
    return "x".join(map(str, spec.kernel_size)) + (" depthwise" if _depthwise(spec) else "")


def _depthwise(spec: ConvSpec) -> bool:
    return spec.groups == spec.in_channels > 1


_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def _as_chain(case: Case, one: Proposal) -> str:
    """``as two 3x3``, ``as two 3x3 through 64 channels``, ``as 3x1 and 1x3``."""
    convs = _convs(one)
    sizes = [_size(spec) for spec in convs]
    wide = {spec.out_channels for spec in convs[:-1]}
    through = f" through {wide.pop()} channels" if len(wide) == 1 and len(one.old) == 1 else ""
    if one.old[0].in_channels == one.old[0].out_channels:
        through = ""
    if len(set(sizes)) == 1:
        number = _NUMBERS[len(sizes)] if len(sizes) < len(_NUMBERS) else str(len(sizes))
        return f"as {number} {sizes[0]}{through}"
    return f"as {', '.join(sizes[:-1])} and {sizes[-1]}{through}"


def _reduced(case: Case, one: Proposal) -> str:
    return f"with a 1x1 to {_convs(one)[0].out_channels} channels before it"


def _moved(case: Case, one: Proposal) -> str:
    other = next((name for name in one.replacement.chains if name != one.name), "")
    if one.options.get("how") == "stride":
        return f"with the stride of {other}, which throws away what it computes"
    if one.options.get("how") == "kernel":
        return f"and {other} as one strided convolution"
    return f"after {other} ({case.type_name(other)}) instead of before it"


def _merged(case: Case, one: Proposal) -> str:
    others = [name for name in one.replacement.chains if name in case.survey.subjects and name != one.name]
    named = ", ".join(others)
    return f"and {named} as one {_size(one.new[0])}, since no activation function stands between them"


_SAYS = {
    "AC101": _as_chain,
    "AC102": _as_chain,
    "AC103": _as_chain,
    "AC104": _as_chain,
    "AC105": _reduced,
    "AC106": _moved,
    "AC107": _merged,
}
