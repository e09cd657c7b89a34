"""The table of an Analysis for people: a tree of modules that adds up, or a sorted list of layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Literal

from archcost.errors import SpecError
from archcost.report.columns import DEFAULT_MODULE_COLUMNS, MODULE_COLUMNS, Column, Row, choose
from archcost.report.grid import Entry, Grid, Head, Piece, lay_out, that_fit
from archcost.report.notes import footnotes, heading, summary, units
from archcost.report.rows import Ledger, at_least, ordered
from archcost.report.terminal import console_for, paint, plain, print_encoding, width_for, wrapped
from archcost.report.text import fit, visible, width_of
from archcost.report.tree import tree

if TYPE_CHECKING:
    from rich.console import Console

    from archcost.analysis.analysis import Analysis

__all__ = ["Depth", "chosen_columns", "draw", "grid_of", "lines_of", "printed", "text_of"]

Depth = int | Literal["auto"] | None
"""How deep a table goes: ``"auto"`` is 3 levels of a tree and every layer of a list, None is everything."""

TREE_DEPTH = 3


def draw(
    analysis: Analysis,
    console: Console | None = None,
    *,
    depth: Depth = "auto",
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
    width: int | None = None,
    file: IO[str] | None = None,
) -> None:
    """Print the table: in colour and within the width on a terminal, plain and uncut in a pipe."""
    console = console_for(console, file)
    paint(lines_of(analysis, depth, sort, columns, top, width_for(console, width)), console)


def text_of(
    analysis: Analysis,
    *,
    depth: Depth = "auto",
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
    width: int | None = None,
) -> str:
    """The table as plain text, uncut unless a width is given."""
    return plain(lines_of(analysis, depth, sort, columns, top, width))


def printed(analysis: Analysis) -> str:
    """The table for ``print``: as wide as the terminal that stdout is, in letters that it can take."""
    width = width_for(console_for(None, None), None)
    return plain(lines_of(analysis, "auto", None, None, None, width), print_encoding())


def lines_of(
    analysis: Analysis,
    depth: Depth,
    sort: str | None,
    columns: Iterable[str] | None,
    top: int | None,
    width: int | None,
) -> list[list[Piece]]:
    """Every line of the report: heading, table, summary, footnotes."""
    at_least("width", width, 1)
    chosen = chosen_columns(columns)
    grid = grid_of(analysis, depth, sort, chosen, top)
    kept = that_fit(grid, width, columns is not None)
    if len(kept) < len(chosen):
        # A row may have been there only for a column that found no room.
        grid = grid_of(analysis, depth, sort, [chosen[i] for i in kept], top)
    lines = [*_heading(analysis, width), [], *lay_out(grid, width), []]
    lines += wrapped("In all", summary(analysis), width)
    lines += wrapped("Units", units(analysis), width)
    notes = footnotes(analysis, grid)
    if columns is not None and len(kept) < len(chosen):
        left_out = ", ".join(column.name for i, column in enumerate(chosen) if i not in kept)
        notes.insert(0, ("No room for", left_out))
    for what, text in notes:
        lines += wrapped(what, text, width)
    return lines


def _heading(analysis: Analysis, width: int | None) -> list[list[Piece]]:
    model, rest = heading(analysis)
    if width is None or width_of(model) + width_of(rest) + 2 <= width:
        return [[(model, "bold"), ("  " + rest, "")]]
    return [[(fit(model, width), "bold")], [(fit("  " + rest, width), "")]]


def chosen_columns(names: Iterable[str] | None) -> list[Column]:
    """The columns beside the name, which always stands first."""
    chosen = choose(names, MODULE_COLUMNS, DEFAULT_MODULE_COLUMNS)
    return [column for column in chosen if column.name != "name"]


def grid_of(
    analysis: Analysis, depth: Depth, sort: str | None, columns: Sequence[Column], top: int | None
) -> Grid:
    """The table itself, before anything is cut."""
    if isinstance(depth, str) and depth != "auto":
        raise SpecError(f"depth is {depth!r}; it takes a whole number, 'auto' or None")
    at_least("depth", None if depth == "auto" else depth, 0)
    at_least("top", top, 1)
    flat = sort is not None or top is not None
    if flat:
        entries = _flat(analysis, None if depth == "auto" else depth, sort, columns, top)
    else:
        entries = _nested(analysis, TREE_DEPTH if depth == "auto" else depth, columns)
    whole = Ledger(analysis).row(analysis.total)
    entries.append(Entry((("Total", "bold"),), _cells(whole, columns), "bold", total=True))
    heads = [Head(c.header, c.keep, c.align_right) for c in columns]
    return Grid("Module" if not flat else "Layer", heads, entries)


def _cells(row: Row, columns: Sequence[Column]) -> tuple[str, ...]:
    return tuple(column.text(row) for column in columns)


def _nested(analysis: Analysis, depth: int | None, columns: Sequence[Column]) -> list[Entry]:
    entries = []
    for line in tree(analysis, depth, columns):
        label: tuple[Piece, ...] = ((line.guides, "guide"), (line.label, ""), (line.remark, "dim"))
        indent = len(line.guides) // 3
        entries.append(Entry(label, _cells(line.row, columns), remark=line.extra, indent=indent))
    return entries


def _flat(
    analysis: Analysis, depth: int | None, sort: str | None, columns: Sequence[Column], top: int | None
) -> list[Entry]:
    """Layers by their full names; what ``top`` leaves out is summed in one row, so that all adds up."""
    ledger = Ledger(analysis)
    rows = ordered(ledger.frontier(depth), MODULE_COLUMNS, sort, None) if sort else ledger.frontier(depth)
    if sort is None:
        rows = ordered(rows, MODULE_COLUMNS, "macs", None)
    shown, rest = (rows, []) if top is None else (rows[:top], rows[top:])
    entries = []
    for row in shown:
        name = visible(row.module.name) or visible(analysis.total.type_name)
        remark = f" ({visible(row.module.type_name)})" if row.kind == "module" else " (own operations)"
        entries.append(Entry(((name, ""), (remark, "dim")), _cells(row, columns)))
    if rest:
        label = (f"({len(rest)} other{'s' * (len(rest) > 1)})", "dim")
        entries.append(Entry((label,), _cells(ledger.sum(rest), columns)))
    return entries
