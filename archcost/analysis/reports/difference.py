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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from archcost.analysis.changes import ADDED_UP, Change, Changes
from archcost.analysis.reports.analysis import head, total_of
from archcost.analysis.reports.changes import (
    COLUMNS,
    MOST,
    change_percent,
    differences,
    folded,
    for_people,
    summed,
    weight,
)
from archcost.analysis.reports.compared import page_of
from archcost.analysis.reports.notes import heading, uncounted
from archcost.analysis.reports.pairs import expanded, pairs
from archcost.analysis.totals import TotalChange, Verdict
from archcost.analysis.traced import TracedModel
from archcost.report.columns import words, yes
from archcost.report.document import Asked, Column, Document, Listing, Note, Table, ordered
from archcost.report.grid import Entry, Grid
from archcost.report.notes import signs
from archcost.report.text import visible
from archcost.report.values import Json

__all__ = ["document_of"]

_WORDS = ("name", "change", "why", "name_a", "name_b", "type_a", "type_b", "modules", "built_at", "own")
_EACH = ("a", "b", "difference", "ratio", "percent")
_UNITS = {
    "params": "params",
    "macs": "MACs",
    "other_ops": "other ops",
    "activation_bytes": "of activations",
    "kept_for_backward_bytes": "saved for backward",
}
_MARKS = {True: "✅", False: "❌", None: "❔"}
# The number of causes in the line at the top.
_CAUSES = 3


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
    names, rows = asked.columns, partial(_rows, changes, asked)
    modules = Table(
        "modules",
        columns=COLUMNS,
        rows=rows,
        shown=_shown(changes) if names is None else ("name", *_expanded(names, ("difference",))),
        lines=partial(_lines, a, b, changes, asked),
        complete=None if names is None else (*_WORDS, *_expanded(names, _EACH)),
        only_known=True,
        folded=f"{len(changes.rows)} change{'s' * (len(changes.rows) != 1)} by module",
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
        lines=[*(f"{_MARKS[v.holds]} {v.text}" for v in verdicts if not v.holds), _because(b, changes)],
        notes=partial(_notes, a, b, changes, notes),
        page=lambda: page_of(a, b, changes.rows, notes, [Listing(modules)]),
    )


def _expanded(names: Iterable[str], suffixes: Sequence[str]) -> list[str]:
    return expanded(names, suffixes, COLUMNS, ADDED_UP)


def _rows(changes: Changes, asked: Asked) -> list[Change]:
    """The rows of data formats: in order of definition, or sorted, the largest change in size first."""
    by, columns = asked.sort or "macs_difference", COLUMNS
    if by.endswith("_difference"):
        columns = tuple(replace(c, get=partial(_size, c)) if c.name == by else c for c in COLUMNS)
    return ordered(folded(changes.rows, asked.depth_for(None)), columns, asked, by)


def _size(column: Column[Change], change: Change) -> float | None:
    value = column.number(change)
    return None if value is None else abs(value)


def _shown(changes: Changes) -> list[str]:
    """The columns for people: the measures that changed in any module."""
    differ = [name for name in ADDED_UP if any(differences[name].get(row) != 0 for row in changes.rows)]
    shown = ["name", "change", "why", *(f"{name}_difference" for name in differ), "built_at"]
    if "macs" in differ:
        shown.insert(shown.index("macs_difference") + 1, "macs_percent")
    return shown


def _lines(
    a: TracedModel, b: TracedModel, changes: Changes, asked: Asked, columns: Sequence[Column]
) -> list[Entry]:
    """The rows for people, those beyond a number as one, and their sum."""
    if asked.is_flat:
        rows = _rows(changes, replace(asked, sort=asked.sort or "macs_difference", top=None))
    else:
        rows = for_people(changes.rows, asked.depth, b.total)
    most = asked.top or MOST
    entries = [_entry(_label(row), row, columns) for row in rows[:most]]
    if rest := rows[most:]:
        others = replace(summed(rest, ""), kind="", why="")
        entries.append(_entry((f"({len(rest)} other{'s' * (len(rest) > 1)})", ""), others, columns))
    (whole,) = pairs(a, b, 0)
    every = Change(
        *("", whole.a, whole.b, changes.same_unknown),
        kind="", why="", name_a="", name_b="", modules=1, before=a.total,
    )  # fmt: skip
    cells = tuple(column.text(every) if column.is_number else "" for column in columns)
    return [*entries, Entry((("All", "bold"),), cells, "bold", total=True)]


def _entry(label: tuple[str, str], row: Change, columns: Sequence[Column]) -> Entry:
    return Entry(((label[0], ""), (label[1], "dim")), tuple(column.text(row) for column in columns))


def _label(row: Change) -> tuple[str, str]:
    kind = visible(row.type_name)
    name = visible(row.name) or "(the model)"
    if row.own:
        return name, f" ({kind}, own operations)"
    return name, f" ({kind}, {row.modules} modules)" if row.modules > 1 else f" ({kind})"


def _because(b: TracedModel, changes: Changes) -> str:
    """The causes of the change in a line: the largest edits, and how many modules follow from them."""
    edits = [row for row in changes.rows if row.kind != "resized" and any(_moves(row, n) for n in ADDED_UP)]
    alike: dict[tuple[object, ...], list[Change]] = {}
    for row in edits:
        alike.setdefault((row.kind, row.type_name, row.own, _line(row) or row.why), []).append(row)
    sums = [(summed(rows, rows[0].name), rows) for rows in alike.values()]
    sums.sort(key=lambda one: -weight(one[0], b.total)[0])
    parts = [_cause(row, rows, b) for row, rows in sums[:_CAUSES]]
    parts += [f"and {len(sums) - _CAUSES} more" * (len(sums) > _CAUSES)]
    if resized := [row for row in changes.rows if row.kind == "resized"]:
        number = f"{len(resized)} module{'s' * (len(resized) > 1)}"
        parts.append(f"{number} as before on other shapes: {_most(summed(resized, ''), b)}")
    places = sum(row.kind in ("moved", "renamed") for row in changes.rows)
    parts.append(f"{places} moved or renamed" * (places > 0))
    said = "; ".join(filter(None, parts))
    return f"Why: {said}" if said else "No module changed"


def _moves(row: Change, name: str) -> bool:
    return differences[name].get(row) != 0


def _line(row: Change) -> str:
    """The line of the user's own code that built a module; empty where it was not recorded."""
    site = row.built_at
    return "" if site is None or site.is_class or site.frame.is_library else str(site)


def _cause(row: Change, rows: Sequence[Change], b: TracedModel) -> str:
    """Edits of one line of code, or of one kind, in words; ``row`` is their sum."""
    name, remark = _label(rows[0])
    more = f" and {len(rows) - 1} like it" if len(rows) > 1 else ""
    said = f"{row.kind} ({row.why})" if row.why else row.kind
    where = f" at {_line(rows[0])}" if _line(rows[0]) else ""
    return f"{name}{remark}{more} {visible(said + where)}: {_most(row, b)}"


def _most(row: Change, b: TracedModel) -> str:
    """The change in the measure in which it is largest: ``+231 M MACs``."""
    name = weight(row, b.total)[1]
    percent = next(column for column in COLUMNS if column.name == f"{name}_percent")
    return f"{differences[name].text(row)} {_UNITS[name]} ({percent.text(row)})"


@dataclass(frozen=True, slots=True)
class _Said(Column[TotalChange]):
    """A column of totals that people see in words of its own."""

    said: Callable[[TotalChange], str] = lambda total: ""

    def text(self, row: TotalChange) -> str:
        return self.said(row)


def _totals(totals: Sequence[TotalChange], verdicts: Sequence[Verdict]) -> Table:
    """The table with a row for each measure, marked where it breaks a limit."""

    def limits(total: TotalChange) -> str:
        own = [verdict for verdict in verdicts if verdict.total.name == total.name]
        return ", ".join(f"{_MARKS[verdict.holds]} {verdict.limit.bound}" for verdict in own)

    columns: list[Column[TotalChange]] = [
        _Said("name", "Total", "Name of the measure", lambda t: t.name, dtype="str", said=lambda t: t.header),
        _Said("a", "a", "The number in a; of a receptive field the largest axis", lambda t: t.a,
              said=lambda t: t.texts[0], keep=4, dtype="Int64"),
        _Said("b", "b", "The number in b; as in a", lambda t: t.b,
              said=lambda t: t.texts[1], keep=4, dtype="Int64"),
        _Said("difference", "b - a", "Difference b - a", lambda t: t.difference,
              said=_difference, keep=3, dtype="Int64"),
        _Said("percent", "Change", "100 (b - a) / a", lambda t: t.percent,
              said=_percent, keep=6, dtype="Float64", unit="%"),
        yes("a_lower_bound", "a lower bound", "Whether a is a lower bound", lambda t: t.is_open[0]),
        yes("b_lower_bound", "b lower bound", "Whether b is a lower bound", lambda t: t.is_open[1]),
        words("limits", "Limit", "Limits, each marked whether it breaks", limits, missing="", keep=5),
    ]  # fmt: skip
    shown = ("name", "a", "b", "difference", "percent", *(["limits"] if verdicts else []))
    return Table("totals", columns, lambda: list(totals), shown, is_summary=True)


def _difference(total: TotalChange) -> str:
    value = total.difference
    if value is None:
        return "?" if "?" in total.texts or any(total.is_open) else "-"
    return f"{'+' if value > 0 else '-'}{total.show(abs(value))}" if value else "0"


def _percent(total: TotalChange) -> str:
    value = total.percent
    if value is None:
        return _difference(total) if total.difference is None else "0" if not total.difference else "▲ new"
    return f"{'▲' if value > 0 else '▼'} {change_percent(value)}" if value else "0"


def _notes(
    a: TracedModel, b: TracedModel, changes: Changes, notes: Sequence[str], grids: Sequence[Grid]
) -> list[Note]:
    said = [("Note", visible(note)) for note in notes]
    peaks = [_peak(side) for side in (a, b)]
    if a.total.peak_memory_bytes != b.total.peak_memory_bytes:
        where = f"in {peaks[0]}" if peaks[0] == peaks[1] else f"in {peaks[0]} of a, in {peaks[1]} of b"
        said.append(("Peak memory", where))
    if changes.rows:
        places = f", {changes.renumbered} of them at another place in a list" if changes.renumbered else ""
        said.append(("Unchanged", f"{changes.unchanged} modules{places}"))
    both = [note for note in a.notes if note in b.notes]
    said += [("Note on both", visible(note)) for note in both]
    for letter, side in (("a", a), ("b", b)):
        said += [(f"Note on {letter}", visible(note)) for note in side.notes if note not in both]
        said += [(f"Not counted in {letter}", text) for text in uncounted(side)]
    return said + signs(grids)


def _peak(side: TracedModel) -> str:
    """The module in which most memory is alive."""
    most = max(side.operations, key=lambda cost: cost.live_bytes, default=None)
    return visible(most.module) or "the model itself" if most is not None else "nothing"


def _record(
    a: TracedModel,
    b: TracedModel,
    changes: Changes,
    totals: Sequence[TotalChange],
    verdicts: Sequence[Verdict],
    notes: Sequence[str],
    rows: Sequence[Change],
) -> dict[str, Json]:
    return {
        "a": {**head(a), "total": total_of(a)},
        "b": {**head(b), "total": total_of(b)},
        "notes": notes,
        "totals": [
            {
                **{name: getattr(total, name) for name in ("name", "a", "b")},
                **{"a_lower_bound": total.is_open[0], "b_lower_bound": total.is_open[1]},
                **{name: getattr(total, name) for name in ("difference", "percent")},
            }
            for total in totals
        ],
        "limits": [{"limit": v.limit.text, "measure": v.total.name, "holds": v.holds} for v in verdicts],
        "changes": [{column.name: column.get(row) for column in COLUMNS} for row in rows],
        "unchanged": changes.unchanged,
        "renumbered": changes.renumbered,
    }
