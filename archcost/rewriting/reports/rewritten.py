"""What a rewrite did, for people: totals before and after, every new layer with its errors, what stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from archcost.report.columns import MODULE_COLUMNS, Column, Row, find
from archcost.report.proposal_columns import error_text, ms_text, options_text
from archcost.report.proposal_notes import stays_notes
from archcost.report.proposals import markdown_grid
from archcost.report.rows import Ledger, at_least

from archcost.report.grid import Entry, Grid, Head, Piece, lay_out, no_room_for, that_fit
from archcost.report.notes import Explanations, explained, heading, signs
from archcost.report.terminal import console_for, plain, print_encoding, width_for, wrapped
from archcost.report.text import fit, markdown_cell, visible
from archcost.report.units import ratio_text, si_text

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis
    from archcost.rewriting.plan.applying import Outcome
    from archcost.rewriting.proposal import Raced
    from archcost.rewriting.rewritten import Rewritten

__all__ = ["printed", "text_of", "to_markdown"]

# Of old and new time, what is within the noise of a quiet machine.
_NOISE = 0.03
_TOTALS = ("params", "macs", "other_ops", "param_bytes", "activation_bytes", "peak_memory_bytes")
_ON_PATH = {"depth": "Weighted depth", "nonlinearities": "Non-linearities"}
_UNITS = (
    "MACs are of one layer, all of its calls in a pass; x is new over old; 1 MAC is one multiply-accumulate, "
    "1 MB is 10^6 bytes"
)
_ERRORS: Explanations = (
    (
        "weights: ||W - W'|| / ||W||, W' being the one kernel that the new layers amount to",
        ("Error of weights",),
    ),
    (
        "data: the same of the layer's output over the data given, before and after the refit of its last "
        "stage",
        ("Error on data", "after refit"),
    ),
    (
        "input: max |new - old| / max |old| of the layer's output for the inputs given",
        ("Error on input",),
    ),
)


def printed(rewritten: Rewritten) -> str:
    """What ``print`` shows: as wide as the terminal that stdout is, in letters that it can take."""
    return plain(_lines(rewritten, width_for(console_for(None, None), None)), print_encoding())


def text_of(rewritten: Rewritten, *, width: int | None = None) -> str:
    """The same as plain text, uncut unless a width is given."""
    return plain(_lines(rewritten, width))


def to_markdown(rewritten: Rewritten) -> str:
    """The same as pipe tables and a list."""
    name, rest = heading(rewritten.before)
    said = [f"# {markdown_cell(name)}, rewritten", markdown_cell(rest)]
    grids = [grid for grid in (_totals(rewritten), _layers(rewritten)) if grid.entries]
    said += [markdown_grid(grid) for grid in grids]
    lines = (f"- {markdown_cell(what)}: {markdown_cell(text)}" for what, text in _notes(rewritten, grids))
    return "\n\n".join([*said, "\n".join(lines)]) + "\n"


def _lines(rewritten: Rewritten, width: int | None) -> list[list[Piece]]:
    at_least("width", width, 1)
    name, rest = heading(rewritten.before)
    line = f"{name}, rewritten  {rest}"
    lines: list[list[Piece]] = [[(line if width is None else fit(line, width), "bold")]]
    grids = [grid for grid in (_totals(rewritten), _layers(rewritten)) if grid.entries]
    fitting = [(grid, that_fit(grid, width)) for grid in grids]
    shown = [grid.keeping(kept) for grid, kept in fitting]
    for grid in shown:
        lines += [[], *lay_out(grid, width)]
    lines.append([])
    for what, text in (*no_room_for(fitting), *_notes(rewritten, shown)):
        lines += wrapped(what, text, width)
    return lines


def _totals(rewritten: Rewritten) -> Grid:
    """One line a cost: before, after, the ratio."""
    sides = (rewritten.before, rewritten.after)
    rows = [_row(side) for side in sides]
    entries = []
    for name in _TOTALS:
        column: Column = find(name, MODULE_COLUMNS)
        values = [None if column.lower_bound(row) else column.get(row) for row in rows]
        texts = [column.text(row) for row in rows]
        entries.append(Entry(((column.header, ""),), (*texts, _ratio(*values))))
    for name, header in _ON_PATH.items():
        values = [getattr(side.total, name) for side in sides]
        entries.append(Entry(((header, ""),), (*map(str, values), _ratio(*values))))
    return Grid("Total", [Head("Before", 3), Head("After", 2), Head("x", 1)], entries)


def _row(analysis: Analysis) -> Row:
    return Ledger(analysis).row(analysis.total)


def _ratio(before: Any, after: Any) -> str:
    if before is None or after is None:
        return "?"
    if not before:
        return "1x" if not after else "-"
    return ratio_text(after / before)


def _layers(rewritten: Rewritten) -> Grid:
    """One line a new layer."""
    heads = [
        Head("Was", 60, right=False),
        Head("Rule", 100, right=False),
        Head("Options", 70, right=False),
        Head("MACs", 50),
        Head("MACs x", 90),
        Head("Error of weights", 65),
        Head("Error on data", 85),
        Head("after refit", 95),
        Head("Error on input", 80),
        Head("Speedup", 75),
    ]
    entries = [Entry(((visible(one.proposal.name), ""),), _cells(one)) for one in rewritten.outcomes]
    grid = Grid("New layer", heads, entries)
    known = [i for i in range(len(heads)) if any(entry.cells[i] not in ("", "-") for entry in entries)]
    return grid.keeping(known)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    one = outcome.proposal
    before, after = (None, None) if outcome.refitted is None else outcome.refitted
    speedup = one.speedup
    return (
        visible(one.shape),
        visible(one.rule),
        visible(options_text(one.options)),
        f"{si_text(one.before.macs)} -> {si_text(one.after.macs)}",
        ratio_text(one.macs_ratio),
        _error(0.0 if one.exact else one.weight_error),
        _error(one.output_error if before is None else before),
        _error(after),
        _error(outcome.error),
        "-" if speedup is None else ratio_text(speedup),
    )


def _error(value: float | None) -> str:
    return "-" if value is None else error_text(value)


def _notes(rewritten: Rewritten, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """``(what, text)`` pairs, in plain text; what to be warned of first."""
    errors = explained(_ERRORS, grids)
    notes = [("Slower", text) for text in _slower(rewritten)]
    if not rewritten.outcomes:
        notes.append(("Rewritten", "nothing; the model computes what it did"))
    error = rewritten.output_error
    if error is None:
        notes.append(("Output", "not compared: the model was changed in place, and the old one is gone"))
    else:
        text = f"max |new - old| / max |old| is {error_text(error)} on the inputs given, before any training"
        notes.append(("Output", text))
    if rewritten.speed is not None:
        notes.append(("Speed", _speed(rewritten.speed)))
    notes += stays_notes(rewritten.stays)
    if errors:
        notes.append(("Errors", errors))
    notes += [("Units", _UNITS), *signs(grids)]
    said = (*rewritten.before.notes, *rewritten.notes)
    return notes + [("Note", visible(note)) for note in said if note]


def _slower(rewritten: Rewritten) -> list[str]:
    found = []
    speed = rewritten.speed
    if speed is not None and speed.speedup < 1 - _NOISE and not _disagree(speed):
        found.append(
            f"the new model takes {ms_text(speed.new_ms)} ms here, the old one {ms_text(speed.old_ms)} ms"
        )
    for outcome in rewritten.outcomes:
        one = outcome.proposal
        if one.speedup is not None and one.speedup < 1 - _NOISE:
            found.append(f"{visible(one.name)} by {visible(one.rule)} is {one.objection}")
    return found


def _disagree(speed: Raced) -> bool:
    """Round by round the one was faster, by the medians the other."""
    return (speed.speedup < 1) != (speed.new_ms > speed.old_ms)


def _speed(speed: Raced) -> str:
    doubt = "; rounds and medians disagree: the machine was busy, time it again" * _disagree(speed)
    threads = f"{speed.threads} thread{'s' * (speed.threads != 1)}"
    spread = "unknown" if speed.spread_ms is None else ms_text(speed.spread_ms)
    return (
        f"{ratio_text(speed.speedup)}: {ms_text(speed.old_ms)} ms before, {ms_text(speed.new_ms)} ms after "
        f"(spread {spread}), old and new model in turns, medians; {threads}, "
        f"{visible(speed.device)}{doubt}"
    )
