"""The Document of a Comparison: both totals, then the modules of both.

The schema of ``archcost.comparison/1``:

- ``schema``, ``archcost`` and ``torch`` as in ``archcost.analysis/1``.
- ``a`` and ``b``: the head of an analysis (``model``, ``type``, ``input``, ``inputs``, ``device``,
  ``notes``, ``uncounted``) with its ``total``.
- ``notes``: a list of strings on the two models together.
- ``modules``: a list of ``{"name", "type_a", "type_b", "only_in", ...}``, where ``only_in`` is ``"a"``,
  ``"b"`` or null; each measure has the keys ``macs_a``, ``macs_b``, ``macs_difference`` (b - a) and
  ``macs_ratio`` (b / a).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from archcost.analysis.reports.analysis import head, total_of
from archcost.analysis.reports.compared import page_of
from archcost.analysis.reports.notes import heading, uncounted
from archcost.analysis.reports.pairs import COLUMNS, MEASURES, RowPair, expanded, measures, pairs
from archcost.analysis.traced import TracedModel
from archcost.report.document import Asked, Column, Document, Listing, Note, Table, ordered
from archcost.report.grid import Entry, Grid
from archcost.report.notes import signs
from archcost.report.text import visible
from archcost.report.units import ratio_text
from archcost.report.values import Json

__all__ = ["document_of"]

# Levels of modules for people; equal modules are not folded, since each may have changed.
_DEPTH = 2
_TOTALS = (
    *("params", "trainable_params", "macs", "flops", "other_ops", "param_bytes", "activation_bytes"),
    *("peak_memory_bytes", "kept_for_backward_bytes"),
)
_SHOWN = ("params", "macs", "peak_memory_bytes")
_SIDES, _EACH = ("a", "b", "ratio"), ("a", "b", "difference", "ratio")
_WORDS = ("name", "type_a", "type_b", "only_in")


def document_of(a: TracedModel, b: TracedModel, notes: Sequence[str], asked: Asked) -> Document:
    """The Document of a Comparison."""
    names = asked.columns
    modules = Table(
        "modules",
        columns=COLUMNS,
        rows=lambda: _rows(a, b, asked.depth_for(None), asked),
        shown=("name", *expanded(_SHOWN if names is None else names, _SIDES)),
        lines=partial(_lines, a, b, asked),
        complete=None if names is None else (*_WORDS, *expanded(names, _EACH)),
    )
    return Document(
        schema="archcost.comparison/1",
        headings=[
            (f"{letter}: {name}", rest) for letter, (name, rest) in (("a", heading(a)), ("b", heading(b)))
        ],
        tables=[modules],
        shown=[_totals(a, b), modules],
        record=lambda: _record(a, b, notes, _rows(a, b, asked.depth_for(None), asked)),
        notes=partial(_notes, a, b, notes),
        page=lambda: page_of(a, b, _layers(pairs(a, b, None)), notes, [Listing(modules)]),
    )


def _rows(a: TracedModel, b: TracedModel, depth: int | None, asked: Asked) -> list[RowPair]:
    """The rows; where sorted by a difference, the largest change in size comes first."""
    found = pairs(a, b, depth)
    by = asked.sort or "macs_difference"
    if by.endswith("_difference"):
        columns = [replace(c, get=partial(_size, c)) if c.name == by else c for c in COLUMNS]
        return ordered(found, columns, asked, by)
    return ordered(found, COLUMNS, asked, by)


def _layers(found: Sequence[RowPair]) -> list[RowPair]:
    """The modules without children in either model."""
    parents = {pair.name.rpartition(".")[0] for pair in found if pair.name}
    return [pair for pair in found if pair.name not in parents]


def _size(column: Column[RowPair], pair: RowPair) -> float | None:
    value = column.number(pair)
    return None if value is None else abs(value)


def _lines(a: TracedModel, b: TracedModel, asked: Asked, columns: Sequence[Column[RowPair]]) -> list[Entry]:
    entries = []
    for pair in _rows(a, b, asked.depth_for(None if asked.is_flat else _DEPTH), asked):
        if not pair.name and not asked.is_flat:
            continue
        name = visible(pair.name if asked.is_flat else pair.name.rpartition(".")[2]) or "(the model)"
        indent = 0 if asked.is_flat else pair.level - 1
        label = (("  " * indent, "guide"), (name, ""), (_types(pair), "dim"))
        entries.append(Entry(label, tuple(column.text(pair) for column in columns), indent=indent))
    return entries


def _totals(a: TracedModel, b: TracedModel) -> Table:
    """The summary with a line for each measure: a, b, the difference and the ratio."""
    (whole,) = pairs(a, b, 0)
    lines = {}
    for name in _TOTALS:
        texts = [column.text(whole) for column in measures(MEASURES[name])]
        lines[MEASURES[name].header] = texts
    depths = a.total.depth, b.total.depth
    change = f"{depths[1] - depths[0]:+d}" if depths[0] != depths[1] else "0"
    ratio = ratio_text(depths[1] / depths[0]) if depths[0] else "-"
    lines["Weighted depth"] = [*map(str, depths), change, ratio]
    return Table.of_texts("totals", "Total", {"a": 4, "b": 3, "b - a": 1, "b / a": 2}, lines)


def _types(pair: RowPair) -> str:
    a, b = pair.type_of("a") or "", pair.type_of("b") or ""
    if pair.only_in is not None:
        return f" ({visible(a or b)}, only in {pair.only_in})"
    return f" ({visible(a)})" if a == b else f" ({visible(a)} -> {visible(b)})"


def _notes(a: TracedModel, b: TracedModel, notes: Sequence[str], grids: Sequence[Grid]) -> list[Note]:
    said = [("Note", visible(note)) for note in notes]
    for letter, side in (("a", a), ("b", b)):
        said += [(f"Note on {letter}", visible(note)) for note in side.notes]
        said += [(f"Not counted in {letter}", text) for text in uncounted(side)]
    return said + signs(grids)


def _record(a: TracedModel, b: TracedModel, notes: Sequence[str], rows: Sequence[RowPair]) -> dict[str, Json]:
    return {
        "a": {**head(a), "total": total_of(a)},
        "b": {**head(b), "total": total_of(b)},
        "notes": notes,
        "modules": [{column.name: column.get(pair) for column in COLUMNS} for pair in rows],
    }
