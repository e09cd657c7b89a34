"""An Analysis as HTML that needs nothing else: the same table as on the terminal, readable light or dark."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from archcost.report.grid import html_table
from archcost.report.notes import footnotes, heading, summary, units
from archcost.report.table import Depth, chosen_columns, grid_of
from archcost.report.text import html_text

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis

__all__ = ["block", "to_html"]


def to_html(
    analysis: Analysis,
    *,
    depth: Depth = "auto",
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
) -> str:
    """A fragment to put into a page or a notebook; every text in it is escaped."""
    grid = grid_of(analysis, depth, sort, chosen_columns(columns), top)
    notes = [("In all", summary(analysis)), ("Units", units(analysis)), *footnotes(analysis, grid)]
    return block([heading(analysis)], [html_table(grid)], notes)


def block(heads: Iterable[tuple[str, str]], tables: Iterable[str], notes: Iterable[tuple[str, str]]) -> str:
    """Headings, tables and footnotes in one element."""
    parts = [f"<div><b>{html_text(first)}</b> {html_text(rest)}</div>" for first, rest in heads]
    parts += tables
    parts += [f"<div><b>{html_text(what)}:</b> {html_text(text)}</div>" for what, text in notes]
    return f'<div style="overflow-x:auto">{"".join(parts)}</div>'
