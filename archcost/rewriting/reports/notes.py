"""The notes below a table of proposals: skipped layers with the reasons, advice, times, errors, units."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from archcost.latency.timing.thresholds import UNRELIABLE
from archcost.report.notes import Explanations, explained, named
from archcost.report.text import visible
from archcost.rewriting.reports.wording import UNRELIABLE_SIGN

if TYPE_CHECKING:
    from archcost.report.grid import Grid
    from archcost.rewriting.proposal import Proposal, Skipped
    from archcost.rewriting.results import SurveyedModel

__all__ = ["RANDOM", "footnotes_of", "notes_of", "skipped_notes"]

_UNITS: Explanations = (
    ("numbers are of one layer, all of its calls in a forward pass", ()),
    ("Saved % is a share of the model's MACs, for all layers of a row", ("Saved %",)),
    ("x is new over old", ("MACs x", "Params x")),
    ("Speedup is old over new", ("Speedup",)),
    ("1 MAC is one multiply-accumulate", ()),
    ("1 MB is 10^6 bytes", ("Activations",)),
)
_ERRORS: Explanations = (
    (
        "||W - W'|| / ||W|| of the weights, W' the kernel that the new layers compose to",
        ("Weight error", "Largest error"),
    ),
    ("of the output predicted over the calibration data", ("Output error",)),
    ("before any training", ()),
)

RANDOM = ("Random weights", "errors mean nothing until you load yours (--weights FILE)")
"""The warning where the weights are known to be untrained."""

# Notes of a kind on the first screen, and the characters of each.
_FEW, _SHORT = 3, 240
# Refusals that say no more than what stands behind a layer.
_NO_NEWS = re.compile(r"the next (layer|operation) is ")
_EVERY = "Skipped by every rule"
_MEASURED = "Proposals.measured(), times old and new layers in turns"


def skipped_notes(skipped: Iterable[Skipped]) -> list[tuple[str, str]]:
    """The skipped layers as ``(rule, text)``: a line for all layers that a rule skips for the same reason.

    Reasons that differ only in names of modules of the model share a line with the first of them.
    """
    given = list(skipped)
    known = {part for one in given for part in _above(one.name)}
    reasons: dict[tuple[str | None, str], dict[str, str]] = defaultdict(dict)
    for one in given:
        reasons[one.rule, _without_names(one.reason, known)].setdefault(one.name, one.reason)
    # Rules that leave the same layers for the same reason share the line.
    shared: dict[tuple[tuple[str, str], ...], list[str | None]] = defaultdict(list)
    for (rule, _), found in reasons.items():
        shared[tuple(found.items())].append(rule)
    lines = []
    for layers, rules in shared.items():
        what = _EVERY if None in rules else f"Skipped by {', '.join(str(rule) for rule in rules)}"
        reason = visible(layers[0][1])
        alike = "; the others similarly" if len({said for _, said in layers}) > 1 else ""
        count = f" ({len(layers)} layers{alike})" if len(layers) > 1 else ""
        lines.append((visible(what), f"{reason}: {named([name for name, _ in layers])}{count}"))
    return sorted(lines, key=lambda line: line[0] != _EVERY)


def _above(name: str) -> set[str]:
    """Names of the modules that contain the module of a name."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def _without_names(reason: str, holders: set[str]) -> str:
    """A reason without names of containing modules and without sizes, to compare it with others."""

    def shorter(found: re.Match[str]) -> str:
        word = found[0]
        held = [one for one in _above(f"{word}.") if one in holders]
        return "~" + word[len(max(held, key=len)) :] if held else word

    return re.sub(r"\b\d+(x\d+)*\b", "#", re.sub(r"\w+(?:\.\w+)*", shorter, reason))


def notes_of(
    proposals: SurveyedModel, chosen: Sequence[Proposal], whole: bool, grids: Sequence[Grid]
) -> list[tuple[str, str]]:
    """The notes of the first screen: what matters of the choice, and last the layers that have none.

    Args:
        chosen: the best proposals.
        whole: whether long notes are shown whole.
    """
    few = list if whole else _few
    notes = [*_nothing(proposals), *few(_advice(proposals))]
    if len(proposals):
        notes.append(("Errors", _errors(proposals, grids)))
        notes.append(("Times", _times(proposals)))
        notes += few(_of_rules(chosen))
    timed = () if proposals.timed is None else proposals.timed.notes
    said = dict.fromkeys((*proposals.analysis.notes, *proposals.notes, *timed))
    notes += few([("Note", visible(note)) for note in said if note])
    notes += few([("Left as they are", text) for text in _left(proposals)])
    return [
        (what, text if whole or len(text) <= _SHORT else f"{text[:_SHORT].rstrip()} ...")
        for what, text in notes
    ]


def _few(notes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    more = len(notes) - _FEW
    return [*notes[:_FEW], *([(notes[0][0], f"and {more} more")] if more > 0 else [])]


def _left(proposals: SurveyedModel) -> list[str]:
    """The reasons for which layers have no proposal at all, each with its layers."""
    proposed = {name for one in proposals for name in one.replacement.chains}
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for one in proposals.skipped:
        if one.name not in proposed and (one.rule is None or not _NO_NEWS.match(one.reason)):
            found[visible(one.reason)][one.name] = None
    most = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return [f"{reason}: {named(list(names), _FEW)}" for reason, names in most]


def footnotes_of(proposals: SurveyedModel, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """The other notes, as pairs of title and text, the refusals last; columns are explained where shown."""
    notes = []
    if len(proposals):
        notes.append(("Rows", f"to_pandas() and --format csv have all {len(proposals)} proposals"))
        notes.append(("Units", explained(_UNITS, grids)))
        notes += [("Verdict", said) for said in [explained(_verdicts(proposals), grids)] if said]
        notes += _of_rules(proposals)
    return notes + skipped_notes(
        one for one in proposals.skipped if one.rule is None or not _NO_NEWS.match(one.reason)
    )


def _nothing(proposals: SurveyedModel) -> list[tuple[str, str]]:
    if not len(proposals):
        return [("Proposals", "none: no rule applies to a convolution of this model")]
    if not proposals.recommended:
        return [("Proposals", "none of them is recommended")]
    return []


def _advice(proposals: SurveyedModel) -> list[tuple[str, str]]:
    alike: dict[str, list[str]] = defaultdict(list)
    for one in proposals.advice:
        alike[one.text].append(one.name)
    return [("Advice", f"{visible(text)}: {named(names)}") for text, names in alike.items()]


def _verdicts(proposals: SurveyedModel) -> Explanations:
    ratio = proposals.ratio
    share = "" if ratio is None else f" at about {'half' if ratio == 0.5 else f'{ratio:.0%} of'} the MACs"
    closest = "outputs" if any(one.output_error is not None for one in proposals) else "weights"
    fewest = f"the closest {closest}{share}, or the fewest MACs where none has so few"
    if all(one.exact or one.error is None for one in proposals):
        fewest = "the fewest MACs" if ratio is None else f"the MACs closest to {ratio:.0%} of the layer's"
    said = f"the best for a layer is an exact one that saves MACs; else {fewest}; else one that is exact"
    return ((said, ("Verdict",)),)


def _times(proposals: SurveyedModel) -> str:
    races = {
        (one.race.device, one.race.threads, ("s" * (one.race.threads != 1))): None
        for one in proposals
        if one.race is not None
    }
    said = [
        f"raced times are medians in ms of old and new layers run in turns, now or earlier (stored), on "
        f"{visible(device)}, {threads} thread{s}"
        for device, threads, s in races
    ]
    stored = any(None not in (one.before.latency_ms, one.after.latency_ms) for one in proposals)
    if stored:
        said.append(
            f"stored and best times are of single convolutions, summed (archcost store list shows them; "
            f"store=False or --store :memory: leaves them out): "
            f"{visible(proposals.device or 'this machine')}"
        )
    if not said:
        which = "those of the new layers are not measured, only the model's own" if proposals.timed else ""
        return f"{which or 'not measured'}; archcost propose --measure, or {_MEASURED}"
    doubtful = {one.name: None for one in proposals if one.disturbed}
    if doubtful:
        said.append(
            f"{UNRELIABLE_SIGN} marks those of {named(list(doubtful), _FEW)}, {UNRELIABLE}: time them again"
        )
    left = sum(one.speedup is None for one in proposals)
    if left:
        said.append(f"{left} of {len(proposals)} proposals were not timed")
    return "; ".join(said)


def _errors(proposals: SurveyedModel, grids: Iterable[Grid]) -> str:
    if all(one.error is None for one in proposals):
        return "not computed; propose(model, errors=True) or archcost propose computes them"
    return explained(_ERRORS, grids)


def _of_rules(proposals: Iterable[Proposal]) -> list[tuple[str, str]]:
    """The remarks of rules on their proposals, a line for each remark."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in proposals:
        if one.replacement.note and one.name not in alike[one.rule, one.replacement.note]:
            alike[one.rule, one.replacement.note].append(one.name)
    return [
        (f"Remark on {visible(rule)}", f"{visible(note)}: {named(names)}")
        for (rule, note), names in alike.items()
    ]
