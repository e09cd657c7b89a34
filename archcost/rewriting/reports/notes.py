"""The notes below a table of proposals: skipped layers with the reasons, advice, times, errors, units."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from archcost.report.notes import Explanations, explained, named
from archcost.report.text import visible

if TYPE_CHECKING:
    from archcost.report.grid import Grid
    from archcost.rewriting.proposal import Skipped
    from archcost.rewriting.results import SurveyedModel

__all__ = ["notes_of", "skipped_notes"]

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

_EVERY = "Skipped by every rule"


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
    """A reason without names of containing modules, to compare it with others."""

    def shorter(found: re.Match[str]) -> str:
        word = found[0]
        held = [one for one in _above(f"{word}.") if one in holders]
        return "~" + word[len(max(held, key=len)) :] if held else word

    return re.sub(r"\w+(?:\.\w+)*", shorter, reason)


def notes_of(proposals: SurveyedModel, rows: str, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """Notes as ``(title, text)`` in plain text; columns are explained where the grids show them.

    Args:
        rows: the choice of the table's rows, in words.
    """
    notes = _nothing(proposals)
    notes += skipped_notes(proposals.skipped)
    notes += _advice(proposals)
    if len(proposals):
        notes.append(("Rows", f"{rows}; to_pandas() and --format csv have all {len(proposals)} proposals"))
        notes.append(("Times", _times(proposals)))
        notes.append(("Errors", _errors(proposals, grids)))
        notes.append(("Units", explained(_UNITS, grids)))
        notes += [("Verdict", said) for said in [explained(_verdicts(proposals), grids)] if said]
        notes += _of_rules(proposals)
    said = (*proposals.analysis.notes, *proposals.notes)
    return notes + [("Note", visible(note)) for note in said if note]


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
    said = f"the best for a layer is exact, has the closest {closest}{share}, or else the fewest MACs"
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
            f"native and best are stored times of single convolutions, summed (archcost store list shows "
            f"them; "
            f"store=False or --store :memory: leaves them out): "
            f"{visible(proposals.device or 'this machine')}"
        )
    if not said:
        return (
            "not measured on this machine; Proposals.measured() or archcost propose --measure measures them"
        )
    left = sum(one.speedup is None for one in proposals)
    if left:
        said.append(f"{left} of {len(proposals)} proposals were not timed")
    return "; ".join(said)


def _errors(proposals: SurveyedModel, grids: Iterable[Grid]) -> str:
    if all(one.error is None for one in proposals):
        return "not computed; propose(model, errors=True) or archcost propose computes them"
    return explained(_ERRORS, grids)


def _of_rules(proposals: SurveyedModel) -> list[tuple[str, str]]:
    """The remarks of rules on their proposals, a line for each remark."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in proposals:
        if one.replacement.note and one.name not in alike[one.rule, one.replacement.note]:
            alike[one.rule, one.replacement.note].append(one.name)
    return [
        (f"Remark on {visible(rule)}", f"{visible(note)}: {named(names)}")
        for (rule, note), names in alike.items()
    ]
