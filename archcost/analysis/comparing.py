"""A Comparison as a table on the terminal, pandas, CSV, markdown, JSON and HTML.

The schema of ``archcost.comparison/1``:

- ``schema``, ``archcost`` and ``torch`` as in ``archcost.analysis/1``.
- ``a`` and ``b``: the head of an analysis (``model``, ``type``, ``input``, ``inputs``, ``device``,
  ``notes``, ``uncounted``) with its ``total``.
- ``notes``: a list of strings about the two together.
- ``modules``: a list of ``{"name", "type_a", "type_b", "only_in", ...}``, where ``only_in`` is ``"a"``,
  ``"b"`` or null and every measure is there as ``macs_a``, ``macs_b``, ``macs_difference`` (b less a) and
  ``macs_ratio`` (b / a).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from archcost.analysis.notes import heading, signs, uncounted
from archcost.analysis.pairs import DEFAULT_MEASURES, Measure, Pair, measures, ordered_pairs, pairs
from archcost.analysis.records import dump, head, total_of, versions
from archcost.analysis.rows import at_least
from archcost.report.frames import Path, csv_text, frame, markdown_table, series, write_text
from archcost.report.grid import Entry, Grid, Head, Piece, html_table, lay_out, no_room_for, that_fit
from archcost.report.markup import block
from archcost.report.terminal import console_for, paint, plain, print_encoding, width_for, wrapped
from archcost.report.text import csv_cell, fit, markdown_cell, visible
from archcost.report.units import ratio_text

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from archcost.analysis.comparison import Comparison

__all__ = ["SCHEMA", "draw", "printed", "text_of", "to_csv", "to_html", "to_json", "to_markdown", "to_pandas"]

SCHEMA = "archcost.comparison/1"
TREE_DEPTH = 2
_TOTALS = (
    *("params", "trainable_params", "macs", "flops", "other_ops", "param_bytes", "activation_bytes"),
    *("peak_memory_bytes", "kept_for_backward_bytes"),
)
_MODULES = ("params", "macs", "peak_memory_bytes")


def to_pandas(
    comparison: Comparison,
    depth: int | None = None,
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
) -> pd.DataFrame:
    """One row a module name; four columns a measure: ``_a``, ``_b``, ``_difference``, ``_ratio``."""
    chosen = measures(columns, DEFAULT_MEASURES)
    found = ordered_pairs(pairs(comparison, depth), sort, top)
    data = {name: series([get(p) for p in found], "str") for name, get in _words().items()}
    for m in chosen:
        # A module may be missing on either side, so every column may hold a gap.
        dtype = "Float64" if m.column.dtype == "Float64" else "Int64"
        data[f"{m.name}_a"] = series([m.value(p, "a") for p in found], dtype)
        data[f"{m.name}_b"] = series([m.value(p, "b") for p in found], dtype)
        data[f"{m.name}_difference"] = series([m.difference(p) for p in found], dtype)
        data[f"{m.name}_ratio"] = series([m.ratio(p) for p in found], "Float64")
    return frame(data)


def _words() -> dict[str, Any]:
    return {
        "name": lambda pair: pair.name,
        "type_a": lambda pair: pair.type_of("a"),
        "type_b": lambda pair: pair.type_of("b"),
        "only_in": lambda pair: pair.only_in,
    }


def _record(pair: Pair, chosen: Iterable[Measure]) -> dict[str, Any]:
    record: dict[str, Any] = {name: get(pair) for name, get in _words().items()}
    for m in chosen:
        record[f"{m.name}_a"] = m.value(pair, "a")
        record[f"{m.name}_b"] = m.value(pair, "b")
        record[f"{m.name}_difference"] = m.difference(pair)
        record[f"{m.name}_ratio"] = m.ratio(pair)
    return record


def to_csv(
    comparison: Comparison,
    path: Path | None = None,
    depth: int | None = None,
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
) -> str | None:
    """The same as CSV: into a file, or returned where no path is given."""
    chosen = measures(columns, DEFAULT_MEASURES)
    records = [_record(p, chosen) for p in ordered_pairs(pairs(comparison, depth), sort, top)]
    rows = [[csv_cell(v) if isinstance(v, str) else v for v in record.values()] for record in records]
    names = list(_record(pairs(comparison, 0)[0], chosen))
    return write_text(csv_text(names, rows), path)


def to_json(
    comparison: Comparison, path: Path | None = None, indent: int | None = 2, depth: int | None = None
) -> str | None:
    """Strict JSON: into a file, or returned where no path is given."""
    chosen = measures(None)
    value: dict[str, Any] = {
        "schema": SCHEMA,
        **versions(),
        "a": {**head(comparison.a), "total": total_of(comparison.a)},
        "b": {**head(comparison.b), "total": total_of(comparison.b)},
        "notes": comparison.notes,
        "modules": [_record(pair, chosen) for pair in pairs(comparison, depth)],
    }
    return write_text(dump(value, indent), path)


def to_markdown(
    comparison: Comparison,
    depth: int | None = None,
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
) -> str:
    """A pipe table for people: for each measure a, b and the ratio."""
    chosen = measures(columns, _MODULES)
    found = ordered_pairs(pairs(comparison, depth), sort, top)
    rows = []
    for pair in found:
        name = visible(pair.name) or "(the model)"
        cells = [markdown_cell(cell) for cell in _cells(pair, chosen)]
        rows.append([markdown_cell(f"{name}{_types(pair)}"), *cells])
    heads = ["Module", *(h.text for h in _heads(chosen))]
    return markdown_table(heads, rows, [False, *(True for _ in heads[1:])])


def to_html(
    comparison: Comparison,
    *,
    depth: int | None = TREE_DEPTH,
    columns: Iterable[str] | None = None,
    top: int | None = None,
    sort: str | None = None,
) -> str:
    """A fragment to put into a page or a notebook; every text in it is escaped."""
    chosen = measures(columns, _MODULES)
    grids = [_totals(comparison), _modules(comparison, chosen, depth, sort, top)]
    return block(_headings(comparison), [html_table(grid) for grid in grids], _notes(comparison, grids))


def draw(
    comparison: Comparison,
    console: Console | None = None,
    *,
    depth: int | None = TREE_DEPTH,
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
    width: int | None = None,
    file: IO[str] | None = None,
) -> None:
    """Print both totals, then the modules; as `archcost.report.table.draw` does."""
    console = console_for(console, file)
    paint(_lines(comparison, depth, sort, columns, top, width_for(console, width)), console)


def text_of(
    comparison: Comparison,
    *,
    depth: int | None = TREE_DEPTH,
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
    width: int | None = None,
) -> str:
    """What `draw` prints as plain text, uncut unless a width is given."""
    return plain(_lines(comparison, depth, sort, columns, top, width))


def printed(comparison: Comparison) -> str:
    """What ``print`` shows: as wide as the terminal that stdout is, in letters that it can take."""
    width = width_for(console_for(None, None), None)
    return plain(_lines(comparison, TREE_DEPTH, None, None, None, width), print_encoding())


def _lines(
    comparison: Comparison,
    depth: int | None,
    sort: str | None,
    columns: Iterable[str] | None,
    top: int | None,
    width: int | None,
) -> list[list[Piece]]:
    at_least("width", width, 1)
    lines: list[list[Piece]] = []
    for name, rest in _headings(comparison):
        line = f"{name}  {rest}"
        lines.append([(line if width is None else fit(line, width), "bold")])
    totals = _totals(comparison)
    modules = _modules(comparison, measures(columns, _MODULES), depth, sort, top)
    fitting = [(totals, that_fit(totals, width)), (modules, that_fit(modules, width, columns is not None))]
    shown = [grid.keeping(kept) for grid, kept in fitting]
    for grid in shown:
        lines += [[], *lay_out(grid, width)]
    notes = [*no_room_for(fitting), *_notes(comparison, shown)]
    lines += [[]] if notes else []
    for what, text in notes:
        lines += wrapped(what, text, width)
    return lines


def _headings(comparison: Comparison) -> list[tuple[str, str]]:
    found = []
    for letter, side in (("a", comparison.a), ("b", comparison.b)):
        name, rest = heading(side)
        found.append((f"{letter}: {name}", rest))
    return found


def _totals(comparison: Comparison) -> Grid:
    """One line a measure: a, b, the difference and the ratio."""
    pair = pairs(comparison, 0)[0]
    entries = []
    for m in measures(_TOTALS):
        a, b = m.text(pair, "a"), m.text(pair, "b")
        cells = (a, b, _change(m, pair), _ratio(m, pair))
        entries.append(Entry(((m.column.header, ""),), cells))
    depths = (comparison.a.total.depth, comparison.b.total.depth)
    change = f"{depths[1] - depths[0]:+d}" if depths[0] != depths[1] else "0"
    ratio = ratio_text(depths[1] / depths[0]) if depths[0] else "-"
    entries.append(Entry((("Weighted depth", ""),), (str(depths[0]), str(depths[1]), change, ratio)))
    return Grid("Total", [Head("a", 4), Head("b", 3), Head("b - a", 1), Head("b / a", 2)], entries)


def _modules(
    comparison: Comparison, chosen: list[Measure], depth: int | None, sort: str | None, top: int | None
) -> Grid:
    flat = sort is not None or top is not None
    entries = []
    for pair in ordered_pairs(pairs(comparison, depth), sort, top):
        if not pair.name and not flat:
            continue
        name = visible(pair.name if flat else pair.name.rpartition(".")[2]) or "(the model)"
        indent = 0 if flat else pair.level - 1
        label = (("  " * indent, "guide"), (name, ""), (_types(pair), "dim"))
        entries.append(Entry(label, _cells(pair, chosen), indent=indent))
    return Grid("Module", _heads(chosen), entries)


def _heads(chosen: Iterable[Measure]) -> list[Head]:
    heads = []
    for m in chosen:
        keep = m.column.keep
        heads += [Head(f"{m.column.header} {side}", keep, group=m.name) for side in ("a", "b")]
        heads.append(Head("b / a", keep - 0.5, group=m.name))
    return heads


def _cells(pair: Pair, chosen: Iterable[Measure]) -> tuple[str, ...]:
    cells: list[str] = []
    for m in chosen:
        cells += [m.text(pair, "a"), m.text(pair, "b"), _ratio(m, pair)]
    return tuple(cells)


def _types(pair: Pair) -> str:
    a, b = pair.type_of("a"), pair.type_of("b")
    if pair.only_in is not None:
        return f" ({visible(a if b is None else b)}, only in {pair.only_in})"
    return f" ({visible(a)})" if a == b else f" ({visible(a)} -> {visible(b)})"


def _change(m: Measure, pair: Pair) -> str:
    value = m.difference(pair)
    if value is None:
        return "?"
    return "0" if value == 0 else ("+" if value > 0 else "-") + m.column.show(abs(value))


def _ratio(m: Measure, pair: Pair) -> str:
    """Empty where one side has no such module; ``-`` where a is 0; ``?`` where a side is not known."""
    if pair.only_in is not None:
        return ""
    ratio = m.ratio(pair)
    if ratio is not None:
        return ratio_text(ratio)
    return "?" if m.difference(pair) is None else "-"


def _notes(comparison: Comparison, shown: Iterable[Grid]) -> list[tuple[str, str]]:
    notes = [("Note", visible(note)) for note in comparison.notes]
    for letter, side in (("a", comparison.a), ("b", comparison.b)):
        notes += [(f"Note on {letter}", visible(note)) for note in side.notes]
        notes += [(f"Not counted in {letter}", text) for text in uncounted(side)]
    return notes + signs(shown)
