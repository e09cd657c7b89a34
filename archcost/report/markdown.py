"""A Document as markdown: pipe tables by tabulate, every text safe in a cell."""

from __future__ import annotations

from archcost.report.document import Asked, Document, shown_in
from archcost.report.grid import Entry, Grid
from archcost.report.text import html_text, markdown_cell

__all__ = ["to_markdown"]


def to_markdown(document: Document, asked: Asked) -> str:
    """Headings and lines, then the tables, then the notes as a list."""
    grids = shown_in(document, asked)
    parts = [f"**{markdown_cell(name)}** {markdown_cell(rest)}".rstrip() for name, rest in document.headings]
    parts += map(markdown_cell, document.lines)
    for grid in grids:
        parts += [f"**{markdown_cell(grid.title[0])}** {markdown_cell(grid.title[1])}"] if grid.title else []
        parts.append(_folded(grid) if grid.folded else _table(grid))
    parts.append("\n".join(f"- {what}: {markdown_cell(said)}" for what, said in document.notes(grids)))
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(grid: Grid) -> str:
    from tabulate import tabulate

    heads = [grid.label, *(head.text for head in grid.heads)]
    rows = [[_label(entry), *map(markdown_cell, entry.cells)] for entry in grid.entries]
    align = ["left", *("right" if head.right else "left" for head in grid.heads)]
    titles = list(map(markdown_cell, heads))
    return tabulate(rows, titles, tablefmt="pipe", colalign=align if rows else None, disable_numparse=True)


def _folded(grid: Grid) -> str:
    """A table that a click unfolds."""
    return f"<details><summary>{html_text(grid.folded)}</summary>\n\n{_table(grid)}\n\n</details>"


def _label(entry: Entry) -> str:
    """The label with no-break spaces in the tree's guides: markdown drops and joins ordinary spaces."""
    guides = "".join(text for text, style in entry.label if style == "guide")
    if guides.startswith(" "):
        guides = f"·{guides[1:]}"
    rest = "".join(text for text, style in entry.label if style != "guide")
    return guides.replace(" ", "\N{NO-BREAK SPACE}") + markdown_cell(rest)
