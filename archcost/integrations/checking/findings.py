"""Findings: the remarks of one code on one line of code, in one sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

from archcost.integrations.checking.case import Case, Gain, Related, Remark
from archcost.integrations.checking.codes import CODES, LEVELS, Level
from archcost.integrations.checking.places import Place
from archcost.latency.timing.thresholds import NOISE, UNRELIABLE
from archcost.report.text import visible
from archcost.report.units import percent_text

__all__ = ["Failure", "Finding", "Said", "fingerprint", "grouped"]

Said = tuple[Case, Remark]
"""A remark on a model."""

# What a change has to save of the model's MACs or parameters to be worth reading.
LEAST_SHARE = 0.01
_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """All remarks of a code on what one line builds."""

    code: str
    level: Level
    place: Place | None
    """The line of the project; None where the command line names a library's model."""
    elsewhere: str
    """The library's line where no line of the project builds the layers; else empty."""
    text: str
    models: tuple[str, ...]
    """Names of the models, the first of which the numbers are of."""
    modules: tuple[str, ...]
    """Names of the modules in the first model."""
    gain: Gain | None
    """Costs and times of these modules, before and after."""
    related: tuple[Related, ...]
    fingerprint: str
    """The same where only lines have moved."""

    @property
    def name(self) -> str:
        return CODES[self.code].name

    @property
    def where(self) -> str:
        """The line as text."""
        return str(self.place) if self.place is not None else self.elsewhere or self.models[0]

    def reaches(self, level: Level) -> bool:
        """Whether it is at or above a level."""
        return LEVELS.index(self.level) >= LEVELS.index(level)

    def __str__(self) -> str:
        return visible(f"{self.where}: {self.code} {self.text}")


@dataclass(frozen=True)
class Failure:
    """A model that could not be checked, and why, in one line."""

    model: str
    text: str
    place: Place | None
    """The line of the project at which it failed, else that of its SPEC; None on the command line."""

    def __str__(self) -> str:
        return visible((f"{self.place}: " if self.place else "") + f"{self.model}: {self.text}")


def grouped(said: Iterable[Said]) -> Iterator[Finding]:
    """The findings, each of all remarks of one code on one line."""
    groups: dict[tuple[object, ...], list[Said]] = {}
    for case, one in said:
        alone = (
            (case.table.name, one.key) if one.code == "AC301" else (one.says,) if one.code == "AC204" else ()
        )
        groups.setdefault((one.code, one.place or case.where(one.module), *alone), []).append((case, one))
    for together in groups.values():
        case = together[0][0]
        own = [one for other, one in together if other is case]
        if _worth_reading(case, own):
            yield _finding(case, own, list(dict.fromkeys(other.table.name for other, _ in together)))


def _worth_reading(case: Case, remarks: Sequence[Remark]) -> bool:
    gain = _gain(remarks)
    if gain is None or gain.macs == (0, 0) or remarks[0].code == "AC107":  # a merge is rarely meant
        return True
    total = case.analysis.total
    pairs = (gain.macs, total.macs), (gain.params, total.params)
    return any(before - after >= LEAST_SHARE * whole for (before, after), whole in pairs if whole)


def _gain(remarks: Sequence[Remark]) -> Gain | None:
    gains = [one.gain for one in remarks if one.gain is not None]
    return reduce(add, gains) if gains else None


def _finding(case: Case, remarks: Sequence[Remark], models: Sequence[str]) -> Finding:
    first = max(remarks, key=_saved)  # of equal ones the first
    gain = _gain(remarks)
    place = first.place or next((place for place, _ in case.chain(first.module)), case.table.place)
    elsewhere = "" if first.place is not None else case.elsewhere(first.module)
    modules = tuple(dict.fromkeys(one.module for one in remarks))
    more = ", ".join(filter(None, [*_savings(case, gain), first.then, _speed(gain)]))
    text = f"{first.what}{_others(case, first, len(modules))} {first.says}" + (f": {more}" if more else "")
    built = f", built at {elsewhere}" if elsewhere and place is not None else ""
    chain = case.chain(first.module)[1:] if first.place is None else case.chain(first.module)
    return Finding(
        first.code,
        CODES[first.code].level,
        place,
        elsewhere,
        f"{text} [{_named(models, modules)}{built}]",
        tuple(models),
        modules,
        gain,
        (*first.related, *(Related(at, f"called in {function}") for at, function in chain)),
        _fingerprint(case, remarks),
    )


def _saved(one: Remark) -> int:
    return 0 if one.gain is None else one.gain.macs[0] - one.gain.macs[1]


def _others(case: Case, first: Remark, count: int) -> str:
    if count == 1:
        return ""
    if not case.chain(first.module):
        return f" (and {count - 1} more like it)"
    built = case.built.get(case.where(first.module), 0)
    of = f" of the {built} convolutions" if first.spec is not None and built >= count else ""
    return f" (and {count - 1} more{of} built here)"


def _savings(case: Case, gain: Gain | None) -> Iterator[str]:
    if gain is None:
        return
    for name, (before, after), whole in (
        ("parameters", gain.params, 0),
        ("MACs", gain.macs, case.analysis.total.macs),
    ):
        change = f"{100 * (after - before) / before:+.0f}" if before else "+0"
        if change not in ("+0", "-0"):
            share = 100 * abs(after - before) / whole if whole else 0.0
            of_all = (
                f" ({'-' if after < before else '+'}{percent_text(share)} % of the model's)" if share else ""
            )
            yield f"{change} % {name}{of_all}"


def _speed(gain: Gain | None) -> str:
    if gain is None or gain.ms is None:
        return ""
    old, new = gain.ms
    doubt = f" ({UNRELIABLE})" * gain.disturbed
    if abs(old / new - 1) <= NOISE:
        return f"no faster measured here{doubt}"
    return f"{max(old, new) / min(old, new):.1f}x {'faster' if old > new else 'slower'} measured here{doubt}"


def _named(models: Sequence[str], modules: Sequence[str]) -> str:
    """``tiny: conv1, conv2 and 3 more; also small``."""
    named = ", ".join(name for name in modules[:_NAMED] if name)
    left = len(modules) - _NAMED
    named += f" and {left} more" if left > 0 else ""
    also = f"; also {', '.join(models[1:])}" if len(models) > 1 else ""
    return models[0] + (f": {named}" if named else "") + also


def _fingerprint(case: Case, remarks: Sequence[Remark]) -> str:
    first = min(remarks, key=lambda one: one.module)
    names = sorted({one.module for one in remarks})
    return fingerprint(first.code, case.table.name, first.key, *names, repr(first.spec))


def fingerprint(*parts: str) -> str:
    """A hash of what a finding is about, without lines."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By file, line and code; those without a line of the project last."""
    return tuple(
        sorted(
            findings,
            key=lambda one: (
                one.place is None,
                replace(one.place, column=one.place.column or 0) if one.place else Place("", 0, 0),
                one.elsewhere,
                one.code,
            ),
        )
    )
