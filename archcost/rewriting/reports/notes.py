"""What stands below a table of proposals: what stays and why, advice, units."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from archcost.report.notes import Explanations, explained, named
from archcost.report.text import visible

if TYPE_CHECKING:
    from archcost.report.grid import Grid
    from archcost.rewriting.proposal import Stays
    from archcost.rewriting.results import Proposed

__all__ = ["notes_of", "stays_notes"]

_UNITS: Explanations = (
    ("numbers are of one layer, all of its calls in a pass", ()),
    ("Saved % is of the model's MACs, for all layers of a row", ("Saved %",)),
    ("x is new over old", ("MACs x", "Params x")),
    ("Speedup is old over new", ("Speedup",)),
    ("1 MAC is one multiply-accumulate", ()),
    ("1 MB is 10^6 bytes", ("Activations",)),
)
_ERRORS: Explanations = (
    (
        "||W - W'|| / ||W|| of the weights, W' being the one kernel that the new layers amount to",
        ("Weight error", "Largest error"),
    ),
    ("of the output the same over the data given", ("Output error",)),
    ("before any training", ()),
)


def stays_notes(stays: Iterable[Stays]) -> list[tuple[str, str]]:
    """What stays and why, as ``(what, text)``: one line for all layers that a rule leaves for one reason.

    Reasons that differ only in the names of the model's own modules are one: the first stands for all.
    """
    given = list(stays)
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
        what = "Stays" if None in rules else f"Not {', '.join(str(rule) for rule in rules)}"
        reason = visible(layers[0][1])
        alike = "; the others alike" if len({said for _, said in layers}) > 1 else ""
        count = f" ({len(layers)} layers{alike})" if len(layers) > 1 else ""
        lines.append((visible(what), f"{reason}: {named([name for name, _ in layers])}{count}"))
    return sorted(lines, key=lambda line: line[0] != "Stays")


def _above(name: str) -> set[str]:
    """The modules that hold this one, by name."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def _without_names(reason: str, holders: set[str]) -> str:
    """The reason with the longest prefix of every word that names a module that holds layers left out."""

    def shorter(found: re.Match[str]) -> str:
        word = found[0]
        held = [one for one in _above(f"{word}.") if one in holders]
        return "~" + word[len(max(held, key=len)) :] if held else word

    return re.sub(r"\w+(?:\.\w+)*", shorter, reason)


def notes_of(proposals: Proposed, rows: str, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """``(what, text)`` pairs, in plain text; columns are explained where the grids have them.

    Args:
        rows: which ones the table has, in words.
    """
    notes = _nothing(proposals)
    notes += stays_notes(proposals.stays)
    notes += _advice(proposals)
    if len(proposals):
        notes.append(("Rows", f"{rows}; to_pandas() and --format csv have all {len(proposals)} proposals"))
        notes.append(("Times", _times(proposals)))
        notes.append(("Errors", _errors(proposals, grids)))
        notes.append(("Units", explained(_UNITS, grids)))
        notes += _of_rules(proposals)
    said = (*proposals.analysis.notes, *proposals.notes)
    return notes + [("Note", visible(note)) for note in said if note]


def _nothing(proposals: Proposed) -> list[tuple[str, str]]:
    if not len(proposals):
        return [("Proposals", "none: no rule applies to any convolution of this model")]
    if not proposals.recommended:
        return [("Proposals", "none of them is recommended")]
    return []


def _advice(proposals: Proposed) -> list[tuple[str, str]]:
    alike: dict[str, list[str]] = defaultdict(list)
    for one in proposals.advice:
        alike[one.text].append(one.name)
    return [("Advice", f"{visible(text)}: {named(names)}") for text, names in alike.items()]


def _times(proposals: Proposed) -> str:
    races = {
        (one.race.device, one.race.threads, ("s" * (one.race.threads != 1))): None
        for one in proposals
        if one.race is not None
    }
    said = [
        f"raced is old and new layers in turns, medians in ms, in this run or one that the store keeps, on "
        f"{visible(device)}, {threads} thread{s}"
        for device, threads, s in races
    ]
    stored = any(None not in (one.before.latency_ms, one.after.latency_ms) for one in proposals)
    if stored:
        said.append(
            f"native and best are each convolution alone, summed, of earlier runs, which the store keeps "
            f"(archcost store list; store=False or --store :memory: leaves them out): "
            f"{visible(proposals.device or 'this machine')}"
        )
    if not said:
        return "not measured here; Proposals.measured() or archcost propose --measure does it"
    left = sum(one.speedup is None for one in proposals)
    if left:
        said.append(f"{left} of {len(proposals)} proposals were not timed")
    return "; ".join(said)


def _errors(proposals: Proposed, grids: Iterable[Grid]) -> str:
    if all(one.error is None for one in proposals):
        return "not worked out; propose(model, errors=True) or archcost propose does it"
    return explained(_ERRORS, grids)


def _of_rules(proposals: Proposed) -> list[tuple[str, str]]:
    """What the rules say of their own proposals, those that are alike together."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in proposals:
        if one.replacement.note and one.name not in alike[one.rule, one.replacement.note]:
            alike[one.rule, one.replacement.note].append(one.name)
    return [
        (f"On {visible(rule)}", f"{visible(note)}: {named(names)}") for (rule, note), names in alike.items()
    ]
