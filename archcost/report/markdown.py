"""A Document as markdown: pipe tables by tabulate, every text safe in a cell."""

from __future__ import annotations

from collections.abc import Iterable

from archcost.report.document import Asked, Document, Note, folded_in, shown_in
from archcost.report.grid import Entry, Grid
from archcost.report.text import html_text, markdown_cell

__all__ = ["to_markdown"]


def to_markdown(document: Document, asked: Asked) -> str:
    """Headings and lines, then the tables, then the notes as a list; the details folded away."""
    grids = shown_in(document, asked)
    top = [(f"{document.warning[0]}:", document.warning[1])] if document.warning else []
    parts = [
        f"**{markdown_cell(name)}** {markdown_cell(rest)}".rstrip()
        for name, rest in (*top, *document.headings)
    ]
    parts += map(markdown_cell, document.lines)
    parts += _below(grids, document.notes_for(asked, grids))
    if inside := list(filter(None, _below(*folded_in(document, asked)))):
        parts.append(_folded(document.folded, "\n\n".join(inside)))
    return "\n\n".join(filter(None, parts)) + "\n"


def _below(grids: Iterable[Grid], notes: Iterable[Note]) -> list[str]:
    """Tables with their titles, and notes as a list."""
    parts = []
    for grid in grids:
        parts += [f"**{markdown_cell(grid.title[0])}** {markdown_cell(grid.title[1])}"] if grid.title else []
        parts.append(_folded(grid.folded, _table(grid)) if grid.folded else _table(grid))
    return [*parts, "\n".join(f"- {what}: {markdown_cell(said)}" for what, said in notes)]


def _table(grid: Grid) -> str:
    from tabulate import tabulate

    heads = [grid.label, *(head.text for head in grid.heads)]
    rows = [[_label(entry), *map(markdown_cell, entry.cells)] for entry in grid.entries]
    align = ["left", *("right" if head.right else "left" for head in grid.heads)]
    titles = list(map(markdown_cell, heads))
    return tabulate(rows, titles, tablefmt="pipe", colalign=align if rows else None, disable_numparse=True)


def _folded(summary: str, inside: str) -> str:
    """Markdown that a click unfolds."""
    return f"<details><summary>{html_text(summary)}</summary>\n\n{inside}\n\n</details>"


def _label(entry: Entry) -> str:
    """The label with no-break spaces in the tree's guides: markdown drops and joins ordinary spaces."""
    guides = "".join(text for text, style in entry.label if style == "guide")
    if guides.startswith(" "):
        guides = f"·{guides[1:]}"
    rest = "".join(text for text, style in entry.label if style != "guide")
    return guides.replace(" ", "\N{NO-BREAK SPACE}") + markdown_cell(rest)
