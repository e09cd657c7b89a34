"""What was measured as a table on the terminal, pandas, CSV, markdown, JSON and HTML.

The schema of ``archcost.measured/1``:

- ``schema``, ``archcost`` and ``torch`` as in ``archcost.analysis/1``.
- ``model``, ``type``, ``input``, ``device``, ``threads``, ``dtype``, ``batch``, ``tolerance``, ``cold``,
  ``seconds`` (asked for), ``took_s``, ``interrupted``, ``notes``.
- ``context``: null, or ``end_to_end_ms``, ``spread_ms``, ``samples``, ``dropped``, ``difference`` (of the
  calls' sum from end to end), ``clock`` and ``calls``: every module call with its own time.
- ``layers``: a list, one a convolution call, with every column of `LAYER_COLUMNS` by its name, or those
  asked for.
- ``paths``: a list of measurements, as ``archcost store export`` has them.
- ``refused``: a list of ``{"spec", "path", "reason"}``: what was not timed, and why.
- ``roofline``: null, or ``macs_per_second`` and ``bytes_per_second`` of this machine.

A time that was not measured is null. Where time did not reach every convolution and some of them could be
predicted, each of ``layers`` has the columns of `PREDICTED_COLUMNS` as well: ``predicted_path``,
``predicted_layout``, ``predicted_ms`` and ``prediction_error`` (0.12 is 12 %), null where there is no
prediction, the error also where it is unknown: beyond what was measured. A predicted time stands under no
other name, and in no sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from archcost.errors import SpecError
from archcost.report.columns import Column, Row, choose
from archcost.report.frames import Path, csv_text, frame, markdown_table, series, write_text
from archcost.report.grid import Entry, Grid, Head, Piece, html_table, lay_out, no_room_for, that_fit
from archcost.report.latencies import (
    DEFAULT_LAYER_COLUMNS,
    DEFAULT_PATH_COLUMNS,
    DEFAULT_PREDICTED_COLUMNS,
    LAYER_COLUMNS,
    PATH_COLUMNS,
    PREDICTED_COLUMNS,
)
from archcost.report.markup import block
from archcost.report.measured_notes import heading, notes_of
from archcost.report.records import dump, versions
from archcost.report.rows import at_least
from archcost.report.terminal import console_for, paint, plain, print_encoding, width_for, wrapped
from archcost.report.text import csv_cell, fit, markdown_cell, visible, width_of

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from archcost.latency.measured import Measured

__all__ = [
    *("SCHEMA", "draw", "printed", "record", "text_of"),
    *("to_csv", "to_html", "to_json", "to_markdown", "to_pandas"),
]

SCHEMA = "archcost.measured/1"


def draw(
    measured: Measured,
    console: Console | None = None,
    *,
    columns: Iterable[str] | None = None,
    width: int | None = None,
    file: IO[str] | None = None,
) -> None:
    """Print the table; as `archcost.report.table.draw` does."""
    console = console_for(console, file)
    paint(_lines(measured, columns, width_for(console, width)), console)


def text_of(measured: Measured, *, columns: Iterable[str] | None = None, width: int | None = None) -> str:
    """The table as plain text, uncut unless a width is given."""
    return plain(_lines(measured, columns, width))


def printed(measured: Measured) -> str:
    """What ``print`` shows: as wide as the terminal that stdout is, in letters that it can take."""
    return plain(_lines(measured, None, width_for(console_for(None, None), None)), print_encoding())


def to_pandas(measured: Measured, by: str = "layers", columns: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a convolution call, or a time of a path; every column unless some are named."""
    chosen, rows = _table(measured, by, columns, everything=True)
    return frame({c.name: series([c.get(row) for row in rows], c.dtype) for c in chosen})


def to_csv(
    measured: Measured, path: Path | None = None, by: str = "layers", columns: Iterable[str] | None = None
) -> str | None:
    """The same as CSV: into a file, or returned where no path is given."""
    chosen, rows = _table(measured, by, columns, everything=True)
    cells = [[_csv_value(column, row) for column in chosen] for row in rows]
    return write_text(csv_text([c.name for c in chosen], cells), path)


def to_markdown(measured: Measured, by: str = "layers", columns: Iterable[str] | None = None) -> str:
    """A pipe table for people, then what it was measured on."""
    chosen, rows = _table(measured, by, columns, everything=False)
    cells = [[markdown_cell(_text(column, row)) for column in chosen] for row in rows]
    table = markdown_table([c.header for c in chosen], cells, [c.align_right for c in chosen])
    name, rest = heading(measured)
    said = [f"**{markdown_cell(name)}** {markdown_cell(rest)}", table]
    notes = notes_of(measured, Grid("", [Head(c.header) for c in chosen]))
    said.append("\n".join(f"- {what}: {markdown_cell(text)}" for what, text in notes))
    return "\n\n".join(said) + "\n"


def to_html(measured: Measured, columns: Iterable[str] | None = None) -> str:
    """A fragment to put into a page or a notebook; every text in it is escaped."""
    grid = _grid(measured, columns)
    return block([heading(measured)], [html_table(grid)], notes_of(measured, grid))


def to_json(
    measured: Measured,
    path: Path | None = None,
    indent: int | None = 2,
    columns: Iterable[str] | None = None,
) -> str | None:
    """Strict JSON: into a file, or returned where no path is given."""
    return write_text(dump(record(measured, columns), indent), path)


def record(measured: Measured, names: Iterable[str] | None = None) -> dict[str, Any]:
    """What `to_json` writes, as plain Python."""
    of_run = ("device", "threads", "dtype", "batch", "tolerance", "cold", "seconds", "took_s", "interrupted")
    columns, rows = _table(measured, "layers", names, everything=True)
    return {
        "schema": SCHEMA,
        **versions(),
        "model": measured.name,
        "type": measured.type,
        "input": measured.input,
        **{name: getattr(measured, name) for name in of_run},
        "notes": list(measured.notes),
        "context": _context(measured),
        "layers": [{column.name: column.get(row) for column in columns} for row in rows],
        "paths": [one.record() for one in measured.paths],
        "refused": [
            {"spec": str(times.task.spec), "path": path, "reason": reason}
            for times in measured.convolutions
            for path, reason in times.refused.items()
        ],
        "roofline": None if measured.roofline is None else asdict(measured.roofline),
    }


def _context(measured: Measured) -> dict[str, Any] | None:
    found = measured.context
    if found is None:
        return None
    names = ("name", "type", "call", "leaf", "samples", "dropped", "disturbed")
    return {
        "end_to_end_ms": found.end_to_end.median_s * 1e3,
        "spread_ms": found.end_to_end.spread_s * 1e3,
        "samples": found.end_to_end.samples,
        "dropped": found.end_to_end.dropped,
        "difference": found.difference,
        "clock": found.clock,
        "training": found.training,
        "calls": [
            {**{name: getattr(one, name) for name in names}, "latency_ms": one.median_s * 1e3}
            for one in found.calls
        ],
    }


def _table(
    measured: Measured, by: str, names: Iterable[str] | None, *, everything: bool
) -> tuple[list[Column], list[Row]]:
    known: dict[str, tuple[tuple[Column, ...], Sequence[str], Sequence[Any]]] = {
        "layers": (LAYER_COLUMNS, DEFAULT_LAYER_COLUMNS, measured.layers),
        "paths": (PATH_COLUMNS, DEFAULT_PATH_COLUMNS, measured.paths),
    }
    if by not in known:
        raise SpecError(f"by is {by!r}; it takes 'layers' or 'paths'")
    columns, default, values = known[by]
    default = [column.name for column in columns] if everything else default
    if by == "layers":
        columns = (*columns, *PREDICTED_COLUMNS)
        if measured.predictions:
            more = [column.name for column in PREDICTED_COLUMNS] if everything else DEFAULT_PREDICTED_COLUMNS
            default = (*default, *more)
    return choose(names, columns, default), [Row(value, measured) for value in values]


def _text(column: Column, row: Row) -> str:
    if column.name == "name":
        layer = row.cost
        again = f" (call {layer.call + 1})" if layer.call else ""
        return (visible(layer.name) or "(the model)") + again
    return column.text(row)


def _csv_value(column: Column, row: Row) -> Any:
    value = column.get(row)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return csv_cell(column.show(value))


def _lines(measured: Measured, names: Iterable[str] | None, width: int | None) -> list[list[Piece]]:
    at_least("width", width, 1)
    model, rest = heading(measured)
    if width is None or width_of(model) + width_of(rest) + 2 <= width:
        lines: list[list[Piece]] = [[(model, "bold"), ("  " + rest, "")]]
    else:
        lines = [[(fit(model, width), "bold")], [(fit("  " + rest, width), "")]]
    left_out: list[tuple[str, str]] = []
    shown = None
    if measured.layers:
        grid = _grid(measured, names)
        kept = that_fit(grid, width, names is not None)
        left_out, shown = no_room_for([(grid, kept)]), grid.keeping(kept)
        lines += [[], *lay_out(shown, width)]
    lines.append([])
    for what, text in (*left_out, *notes_of(measured, shown)):
        lines += wrapped(what, text, width)
    return lines


def _grid(measured: Measured, names: Iterable[str] | None) -> Grid:
    chosen, rows = _table(measured, "layers", names, everything=False)
    chosen = [column for column in chosen if column.name != "name"]
    entries = []
    for row in rows:
        label = (_text(LAYER_COLUMNS[0], row), "")
        entries.append(Entry((label,), tuple(column.text(row) for column in chosen)))
    totals = tuple(_total(column, rows) for column in chosen)
    entries.append(Entry((("All convolutions", "bold"),), totals, "bold", total=True))
    return Grid("Layer", [Head(c.header, c.keep, c.align_right, c.group) for c in chosen], entries)


def _total(column: Column, rows: Sequence[Row]) -> str:
    """The sum where a sum means something and every part is known."""
    values = [column.get(row) for row in rows]
    if column.name == "speedup":
        pairs = [(row.cost.native_ms, row.cost.best_ms) for row in rows]
        if any(None in pair for pair in pairs) or not sum(best for _, best in pairs):
            return ""
        return column.show(sum(native for native, _ in pairs) / sum(best for _, best in pairs))
    return column.show(sum(values)) if column.summed and None not in values else ""
