"""The Document of a Difference: both totals, then the modules that explain the change, the causes first.

The schema of ``archcost.difference/1``:

- ``schema``, ``archcost`` and ``torch`` as in ``archcost.analysis/1``.
- ``a`` and ``b``: the head of an analysis (``model``, ``type``, ``input``, ``inputs``, ``device``,
  ``notes``, ``uncounted``) with its ``total``.
- ``notes``: a list of strings on the two versions together.
- ``totals``: a list of ``{"name", "a", "b", "a_lower_bound", "b_lower_bound", "difference", "percent"}``.
- ``limits``: a list of ``{"limit", "measure", "holds"}``, where ``holds`` is null where it is not known.
- ``changes``: a list of ``{"name", "change", "why", "name_a", "name_b", "type_a", "type_b", "modules",
  "own", ...}``; each measure has the keys ``macs_a``, ``macs_b``, ``macs_difference`` (b - a),
  ``macs_ratio`` (b / a) and ``macs_percent`` (100 (b - a) / the model's MACs in a).
- ``unchanged`` and ``renumbered``: the numbers of modules as they were, and with another place in a list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from archcost.analysis.changes import ADDED_UP, Change, Changes
from archcost.analysis.reports.analysis import head, total_of
from archcost.analysis.reports.changes import COLUMNS, folded, in_order, summed
from archcost.analysis.reports.notes import heading, uncounted
from archcost.analysis.reports.pairs import expanded_by, pairs
from archcost.analysis.totals import TotalChange, Verdict
from archcost.analysis.traced import TracedModel
from archcost.report.columns import number, words, yes
from archcost.report.document import Asked, Column, Document, Note, Table, ordered
from archcost.report.grid import Entry, Grid
from archcost.report.notes import signs
from archcost.report.text import visible
from archcost.report.units import percent_text

__all__ = ["document_of"]

_PEOPLE = ("params", "macs", "other_ops", "activation_bytes", "kept_for_backward_bytes")
_EACH = ("a", "b", "difference", "ratio", "percent")
_WORDS = ("name", "change", "why", "name_a", "name_b", "type_a", "type_b", "modules", "own")
# Causes that the line at the top names.
_NAMED = 3
_UNITS = {
    "params": "params", "macs": "MACs", "other_ops": "other ops", "activation_bytes": "of activations",
    "kept_for_backward_bytes": "saved for backward",
}  # fmt: skip


def document_of(
    a: TracedModel,
    b: TracedModel,
    changes: Changes,
    totals: Sequence[TotalChange],
    verdicts: Sequence[Verdict],
    notes: Sequence[str],
    asked: Asked,
) -> Document:
    """The Document of a Difference."""
    names = asked.columns
    whole = replace(pairs(a, b, 0)[0], same_unknown=changes.same_unknown)
    rows = partial(_rows, changes, asked)
    modules = Table(
        "modules",
        columns=COLUMNS,
        rows=rows,
        shown=_shown(changes) if names is None else ("name", *expanded_by(names, COLUMNS, ("difference",))),
        lines=partial(_lines, changes, whole, asked),
        complete=None if names is None else (*_WORDS, *expanded_by(names, COLUMNS, _EACH)),
        folded=_count(len(changes.rows), "change"),
    )
    summary = _totals(totals, verdicts)
    return Document(
        schema="archcost.difference/1",
        headings=[
            (f"{letter}: {name}", rest) for letter, (name, rest) in (("a", heading(a)), ("b", heading(b)))
        ],
        tables=[modules, summary],
        shown=[summary, *([modules] if changes.rows else [])],
        record=lambda: _record(a, b, changes, totals, verdicts, notes, rows()),
        lines=[*_broken(verdicts), _because(changes, whole)],
        notes=partial(_notes, a, b, changes, notes),
    )


def _rows(changes: Changes, asked: Asked) -> list[Change]:
    """The rows of data formats, in order of definition unless they are sorted."""
    depth = asked.depth_for(None)
    found = list(changes.rows) if depth is None else folded(changes.rows, depth)
    columns = COLUMNS
    by = asked.sort or "macs_difference"
    if by.endswith("_difference"):  # the largest change in size first
        columns = tuple(replace(c, get=partial(_size, c)) if c.name == by else c for c in COLUMNS)
    return ordered(found, columns, asked, by)


def _size(column: Column, change: Change) -> Any:
    value = column.get(change)
    return None if value is None else abs(value)


def _shown(changes: Changes) -> list[str]:
    """The columns for people: the measures that changed in any module."""
    differ = [name for name in _PEOPLE if any(_DIFFERENCES[name].get(row) != 0 for row in changes.rows)]
    shown = ["name", "change", "why", *(f"{name}_difference" for name in differ)]
    if "macs" in differ:
        shown.insert(shown.index("macs_difference") + 1, "macs_percent")
    return shown


_DIFFERENCES = {name: next(c for c in COLUMNS if c.name == f"{name}_difference") for name in ADDED_UP}


def _lines(changes: Changes, whole: Any, asked: Asked, columns: Sequence[Column]) -> list[Entry]:
    if asked.is_flat:
        rows, rest = _rows(changes, replace(asked, top=None)), asked.top
    else:
        rows, rest = in_order(changes.rows, asked.depth_for("auto"), whole)
    rows, others = rows[:rest], rows[rest:] if rest else []
    entries = [_entry(row, columns) for row in rows]
    if others:
        row = summed(others, "", "")
        label = ((f"({len(others)} other{'s' * (len(others) > 1)})", "dim"),)
        entries.append(Entry(label, tuple(c.text(row) for c in columns)))
    cells = tuple("" if c.dtype == "str" else c.text(whole) for c in columns)
    return [*entries, Entry((("All", "bold"),), cells, "bold", total=True)]


def _entry(row: Change, columns: Sequence[Column]) -> Entry:
    name = visible(row.name) or "(the model)"
    if row.own:
        remark = f"{visible(row.type_name)}, own operations" if row.name else "own operations"
    else:
        remark = visible(row.type_name) + (f", {row.modules} modules" if row.modules > 1 else "")
    return Entry(((name, ""), (f" ({remark})" if remark else "", "dim")), tuple(c.text(row) for c in columns))


def _totals(totals: Sequence[TotalChange], verdicts: Sequence[Verdict]) -> Table:
    """The table with a row for each measure, marked where it breaks a limit."""

    def limits(total: TotalChange) -> str | None:
        own = [verdict for verdict in verdicts if verdict.total.name == total.name]
        return ", ".join(f"{_MARKS[verdict.holds]} {verdict.limit.text}" for verdict in own) or None

    columns: list[Column] = [
        words("name", "Total", "Name of the measure", show=lambda name: headers[name]),
        _number("a", "a", "The number in a; the receptive field is that of its largest axis", "text_a"),
        _number("b", "b", "The number in b", "text_b"),
        _Text("difference", "b - a", "Difference b - a", lambda t: t.difference, texts=_change_text,
              dtype="Int64", keep=3),
        _Text("percent", "Change", "100 (b - a) / a", lambda t: t.percent, texts=_percent_text,
              unit="%", dtype="Float64", keep=4),
        yes("a_lower_bound", "a lower bound", "Whether a is a lower bound", lambda t: t.open_a),
        yes("b_lower_bound", "b lower bound", "Whether b is a lower bound", lambda t: t.open_b),
        words("limits", "Limit", "Limits, marked where they break", limits, missing="", keep=5),
    ]  # fmt: skip
    headers = {total.name: total.header for total in totals}
    shown = ["name", "a", "b", "difference", "percent", *(["limits"] if verdicts else [])]
    return Table("totals", columns, lambda: list(totals), shown, is_summary=True)
