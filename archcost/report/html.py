"""A Document as self-contained HTML, readable on light and dark pages; every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from archcost.report.document import Asked, Document, Note, folded_in, shown_in
from archcost.report.grid import Grid
from archcost.report.text import html_text

__all__ = ["to_html"]

# Readable in light and dark notebooks: the page's own text colour, and a half-transparent grey.
_TABLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;color:inherit;background:transparent"
_EDGE = "1px solid rgba(128,128,128,.4)"
# Rows of a table without a total, and notes, that are shown unfolded.
_FEW_ROWS, _FEW_NOTES = 12, 8


def _table(grid: Grid) -> str:
    """A table with inline styles."""
    title = grid.title and f"<div><b>{html_text(grid.title[0])}:</b> {html_text(grid.title[1])}</div>"
    out = [f'{title or ""}<table style="{_TABLE}"><thead><tr style="border-bottom:{_EDGE}">']
    out.append(_th(grid.label, "left"))
    out += [_th(head.text, "right" if head.right else "left") for head in grid.heads]
    out.append("</tr></thead><tbody>")
    for entry in grid.entries:
        weight = f"font-weight:bold;border-top:{_EDGE}" if entry.total else ""
        out.append(f'<tr style="background:transparent;{weight}">')
        pad = f"text-align:left;white-space:nowrap;padding:2px 8px 2px {8 + 16 * entry.indent}px"
        pieces = [*entry.label, (entry.remark, "dim")]
        label = "".join(
            f'<span style="opacity:.65">{html_text(t)}</span>' if s.startswith("dim") else html_text(t)
            for t, s in pieces
            if t and s != "guide"
        )
        out.append(f'<td style="{pad}">{label}</td>')
        for cell, head in zip(entry.cells, grid.heads, strict=True):
            side = "right" if head.right else "left"
            out.append(f'<td style="text-align:{side};padding:2px 8px">{html_text(cell)}</td>')
        out.append("</tr>")
    out.append("</tbody></table>")
    table = "".join(out)
    return f"<details><summary>{html_text(grid.folded)}</summary>{table}</details>" if grid.folded else table


def _th(text: str, side: str) -> str:
    return f'<th style="text-align:{side};padding:2px 8px">{html_text(text)}</th>'


def _folded(grid: Grid) -> str:
    """The totals, and the whole table to unfold; a short one without totals is unfolded."""
    totals = [entry for entry in grid.entries if entry.total]
    count = len(grid.entries) - len(totals)
    if not count:
        return _table(grid)
    above = _table(replace(grid, entries=totals)) if totals else ""
    whole = _table(replace(grid, title=None) if totals else grid)
    is_open = not totals and count <= _FEW_ROWS
    return above + _details(f"{count} row{'s' * (count > 1)}", whole, is_open)


def _details(summary: str, inside: str, is_open: bool = False) -> str:
    state = " open" * is_open
    return f'<details{state}><summary style="cursor:pointer">{summary}</summary>{inside}</details>'


def _notes(notes: Iterable[Note]) -> list[str]:
    return [f"<div><b>{html_text(what)}:</b> {html_text(said)}</div>" for what, said in notes]


def to_html(document: Document, asked: Asked, folded: bool = False) -> str:
    """A single element for a page or a notebook: headings, lines, tables and notes.

    Args:
        document: the contents.
        asked: the options with which they are asked for.
        folded: whether tables are folded below their totals, and many notes, for notebooks.
    """
    grids = shown_in(document, asked)
    parts = _notes([document.warning] if document.warning else [])
    parts += [f"<div><b>{html_text(first)}</b> {html_text(rest)}</div>" for first, rest in document.headings]
    parts += [f"<div>{html_text(line)}</div>" for line in document.lines]
    parts += map(_folded if folded else _table, grids)
    notes = _notes(document.notes_for(asked, grids))
    at_once = _FEW_NOTES if folded else len(notes)
    parts += notes[:at_once]
    if more := notes[at_once:]:
        parts.append(_details(f"{len(more)} more note{'s' * (len(more) > 1)}", "".join(more)))
    tables, said = folded_in(document, asked)
    if tables or said:
        parts.append(_details(html_text(document.folded), "".join([*map(_table, tables), *_notes(said)])))
    return f'<div style="overflow-x:auto">{"".join(parts)}</div>'
