"""Proposals as a table on the terminal, pandas, CSV, markdown, JSON and HTML.

The schema of ``archcost.proposals/1``; a later version may add keys, a changed meaning gets a new number:

- ``schema``, ``archcost``, ``torch``, ``model``, ``type``, ``input``, ``inputs``, ``notes`` and
  ``uncounted`` as in ``archcost.analysis/1``.
- ``total``: ``params`` and ``macs`` of the model as it is.
- ``device``: where the times of the store come from; null where it had none.
- ``proposals``: a list of records as ``Plan.to_json`` has them: ``name``, ``rule``, ``options``, ``type``,
  ``shape``, ``exact``, ``note``, ``chains`` (by the name of a replaced module, the steps in its place),
  ``old`` and ``new`` (every convolution that a pass runs there), ``before`` and ``after`` (``params``,
  ``macs``, ``activation_bytes``, ``depth``, ``nonlinearities``, ``receptive_field``, ``latency_ms``,
  ``best_ms``), ``weight_error``, ``output_error``, ``race`` (null, or ``old_ms``, ``new_ms``, ``spread_ms``,
  ``speedup``, ``device``, ``threads``); and beside them ``macs_ratio``, ``params_ratio``, ``macs_saved`` (in
  % of the model's), ``speedup``, ``recommended``, ``objection`` (null where it is recommended) and ``best``
  (`Proposals.best` has it).
- ``stays``: a list of ``{"name", "type", "rule", "reason"}``; ``rule`` is null where every rule is meant.
- ``advice``: a list of ``{"name", "text"}``.

Costs are of one layer, all of its calls in a pass together. Times are in ms; one that was not measured is
null, and none is ever predicted.
"""

from __future__ import annotations

from math import isfinite
from typing import IO, TYPE_CHECKING, Any

from archcost.report.columns import Column, Row
from archcost.report.frames import Path, csv_text, frame, markdown_table, series, write_text
from archcost.report.markup import block
from archcost.report.proposal_columns import COLUMNS
from archcost.report.proposal_notes import notes_of
from archcost.report.proposal_rows import flat_lines, grid_of, rules_grid
from archcost.report.records import dump, head, versions
from archcost.report.rows import at_least

from archcost.report.grid import Grid, Piece, html_table, lay_out, no_room_for, that_fit
from archcost.report.notes import heading
from archcost.report.terminal import console_for, paint, plain, print_encoding, width_for, wrapped
from archcost.report.text import csv_cell, fit, markdown_cell, width_of
from archcost.rewriting.plan.plan_json import proposal_record

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from archcost.rewriting.proposals import Proposals

__all__ = [
    *("COLUMNS", "SCHEMA", "draw", "markdown_grid", "printed", "record", "text_of"),
    *("to_csv", "to_html", "to_json", "to_markdown", "to_pandas"),
]

SCHEMA = "archcost.proposals/1"
_ADDED = ("macs_ratio", "params_ratio", "macs_saved", "speedup", "recommended", "objection", "best")


def draw(
    proposals: Proposals,
    console: Console | None = None,
    *,
    width: int | None = None,
    file: IO[str] | None = None,
) -> None:
    """Print the table; as `archcost.report.table.draw` does."""
    console = console_for(console, file)
    paint(_lines(proposals, width_for(console, width)), console)


def text_of(proposals: Proposals, *, width: int | None = None) -> str:
    """The table as plain text, uncut unless a width is given."""
    return plain(_lines(proposals, width))


def printed(proposals: Proposals) -> str:
    """What ``print`` shows: as wide as the terminal that stdout is, in letters that it can take."""
    return plain(_lines(proposals, width_for(console_for(None, None), None)), print_encoding())


def to_pandas(proposals: Proposals) -> pd.DataFrame:
    """One row a proposal; every column of `COLUMNS`, with these units:

    MACs in ``macs_*``, bytes in ``activation_bytes_*``, pixels in ``receptive_field_*``, ms in ``*_ms_*``, %
    of the model's MACs in ``macs_saved``; ratios are new over old, ``speedup`` is old over new, errors are
    relative.
    """
    rows = [Row(line, proposals.analysis) for line in flat_lines(proposals)]
    return frame({c.name: series([c.get(row) for row in rows], c.dtype) for c in COLUMNS})


def to_csv(proposals: Proposals, path: Path | None = None) -> str | None:
    """The same as CSV: into a file, or returned where no path is given."""
    rows = [Row(line, proposals.analysis) for line in flat_lines(proposals)]
    cells = [[_csv_value(column, row) for column in COLUMNS] for row in rows]
    return write_text(csv_text([column.name for column in COLUMNS], cells), path)


def _csv_value(column: Column, row: Row) -> Any:
    value = column.get(row)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return csv_cell(column.show(value))


def to_markdown(proposals: Proposals) -> str:
    """Pipe tables for people, then what stays and why, advice and units."""
    name, rest = heading(proposals.analysis)
    said = [f"**{markdown_cell(name)}** {markdown_cell(rest)}"]
    grids = _grids(proposals, repeat=True)
    said += [markdown_grid(grid) for grid in grids]
    notes = (f"- {markdown_cell(what)}: {markdown_cell(text)}" for what, text in notes_of(proposals, grids))
    said.append("\n".join(notes))
    return "\n\n".join(said) + "\n"


def markdown_grid(grid: Grid) -> str:
    """A grid as a pipe table."""
    rows = [["".join(text for text, _ in entry.label), *entry.cells] for entry in grid.entries]
    heads = [grid.label, *(one.text for one in grid.heads)]
    safe = [[markdown_cell(cell) for cell in row] for row in rows]
    return markdown_table(heads, safe, [False, *(one.right for one in grid.heads)])


def _grids(proposals: Proposals, *, repeat: bool = False) -> list[Grid]:
    """Rule by rule, then layer by layer; none where nothing is proposed."""
    return [rules_grid(proposals), grid_of(proposals, repeat=repeat)] if len(proposals) else []


def to_html(proposals: Proposals) -> str:
    """A fragment to put into a page or a notebook; every text in it is escaped."""
    grids = _grids(proposals)
    tables = [html_table(grid) for grid in grids]
    return block([heading(proposals.analysis)], tables, notes_of(proposals, grids))


def to_json(proposals: Proposals, path: Path | None = None, indent: int | None = 2) -> str | None:
    """Strict JSON: into a file, or returned where no path is given."""
    return write_text(dump(record(proposals), indent), path)


def record(proposals: Proposals) -> dict[str, Any]:
    """What `to_json` writes, as plain Python."""
    analysis = proposals.analysis
    about = head(analysis)
    about.pop("device")  # of the pass on paper; the one below is that of the times
    added = [column for column in COLUMNS if column.name in _ADDED]
    made = []
    for line in flat_lines(proposals):
        row = Row(line, analysis)
        values = {**proposal_record(line.first), **{column.name: column.get(row) for column in added}}
        made.append(_finite(values))
    return {
        "schema": SCHEMA,
        **versions(),
        **about,
        "total": {"params": analysis.total.params, "macs": analysis.total.macs},
        "device": proposals.device,
        "proposals": made,
        "stays": [
            {"name": one.name, "type": one.type_name, "rule": one.rule, "reason": one.reason}
            for one in proposals.stays
        ],
        "advice": [{"name": one.name, "text": one.text} for one in proposals.advice],
    }


def _finite(value: Any) -> Any:
    """JSON has no word for what is not a number, such as the error of weights that are none."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _lines(proposals: Proposals, width: int | None) -> list[list[Piece]]:
    at_least("width", width, 1)
    model, rest = heading(proposals.analysis)
    if width is None or width_of(model) + width_of(rest) + 2 <= width:
        lines: list[list[Piece]] = [[(model, "bold"), ("  " + rest, "")]]
    else:
        lines = [[(fit(model, width), "bold")], [(fit("  " + rest, width), "")]]
    fitting = [(grid, that_fit(grid, width)) for grid in _grids(proposals)]
    shown = [grid.keeping(kept) for grid, kept in fitting]
    for grid in shown:
        lines += [[], *lay_out(grid, width)]
    lines.append([])
    for what, text in (*no_room_for(fitting), *notes_of(proposals, shown)):
        lines += wrapped(what, text, width)
    return lines
