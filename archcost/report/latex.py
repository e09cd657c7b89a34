"""A Document as LaTeX: tables of the booktabs package by tabulate, every text safe for TeX."""

from __future__ import annotations

from archcost.report.document import Asked, Document, shown_in
from archcost.report.grid import Grid

__all__ = ["latex_text", "to_latex"]

_SPECIAL = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "|": r"\textbar{}", "×": r"$\times$", "…": r"\dots{}", "≥": r"$\geq$"},
    **{"├": "", "└": "", "│": "", "─": "", "\N{NO-BREAK SPACE}": "~", "▲": "", "▼": ""},
}


def latex_text(text: str) -> str:
    """The text as TeX shows it; a letter that TeX's fonts may lack is a question mark."""
    return "".join(_SPECIAL.get(char, char if ord(char) < 0x250 else "?") for char in text).strip()


def to_latex(document: Document, asked: Asked) -> str:
    """The tables for people, each a ``table`` with a caption from the headings and lines; without notes."""
    said = " ".join(" ".join(filter(None, heading)) for heading in document.headings)
    lines = " ".join(document.lines[:1])
    return (
        "\n".join(_table(grid, said, lines) for grid in shown_in(document, asked)) or f"% {said}\n% {lines}\n"
    )


def _table(grid: Grid, said: str, lines: str) -> str:
    from tabulate import tabulate

    heads = [grid.label, *(head.text for head in grid.heads)]
    rows = [["".join(text for text, _ in entry.label), *entry.cells] for entry in grid.entries]
    indents = [len(row[0]) - len(row[0].lstrip(" │├└─")) for row in rows]
    cells = [
        [rf"\hspace{{{indent / 4:g}em}}" * bool(indent) + latex_text(row[0]), *map(latex_text, row[1:])]
        for indent, row in zip(indents, rows, strict=True)
    ]
    align = ["left", *("right" if head.right else "left" for head in grid.heads)]
    titles = [latex_text(head) for head in heads]
    aligned = align if cells else None
    body = tabulate(cells, titles, tablefmt="latex_raw", colalign=aligned, disable_numparse=True)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):  # its own booktabs would escape TeX again
        body = body.replace(r"\hline", rule, 1)
    title = " ".join(filter(None, grid.title)) + ". " if grid.title else ""
    caption = latex_text(f"{said}. {title}{lines}".strip())
    return f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{body}\n\\end{{table}}\n"
