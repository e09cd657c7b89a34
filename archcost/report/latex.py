"""A Document as LaTeX: tables of the booktabs package by tabulate, every text safe for TeX."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap
from unicodedata import normalize

from archcost.report.document import Asked, Document, fitted_in
from archcost.report.grid import Grid, stacked_head, widths_within

__all__ = ["latex_text", "to_latex"]

_WIDTH = 76
"""Letters of ``\\small`` in a line of the class ``article``, gaps of 8 points between columns included."""
_BEGIN = r"""\begin{table}
\centering
\small
\setlength{\tabcolsep}{4pt}
\setlength{\belowcaptionskip}{4pt}
"""
# A bracket or a star at the begin of a row would be an argument of the line break before it.
_SPECIAL = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{char: f"{{{char}}}" for char in "[]*-"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "|": r"\textbar{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}"},
    **{"…": r"\dots{}", "×": r"$\times$", "·": r"$\cdot$", "→": r"$\rightarrow$"},
    **{"≥": r"$\geq$", "≤": r"$\leq$", "≈": r"$\approx$", "∞": r"$\infty$", "−": "$-$", "μ": r"\textmu{}"},
    **{"├": "", "└": "", "│": "", "─": "", "\N{NO-BREAK SPACE}": "~", "▲": "", "▼": ""},
}
# Letters of Latin that TeX's own fonts, OT1, have not.
_LACKING = frozenset("«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ")


def latex_text(text: str) -> str:
    """The text as TeX shows it; a letter that its fonts lack has no accent, or is a question mark."""
    return "".join(_SPECIAL.get(char) or _letter(char) for char in text if _SPECIAL.get(char) != "").strip()


def _letter(char: str) -> str:
    if " " <= char <= "~" or ("\xa0" < char < "\u0180" and char not in _LACKING):
        return char
    plain = normalize("NFD", char)[0]
    return plain if plain.isascii() and plain.isalpha() else "?"


def to_latex(document: Document, asked: Asked) -> str:
    """The tables for people, each a ``table`` with a caption from the headings and lines; without notes.

    Columns that do not fit the width of a page are left out, which a comment of TeX says.
    """
    said = " ".join(" ".join(filter(None, heading)) for heading in document.headings)
    lines = " ".join(document.lines[:1])
    grids, left_out = fitted_in(document, asked, _WIDTH)
    hidden = f"% Columns left out for the width of a page: {', '.join(left_out)}\n" * bool(left_out)
    return hidden + ("\n".join(_table(grid, said, lines) for grid in grids) or f"% {said}\n% {lines}\n")


def _table(grid: Grid, said: str, lines: str) -> str:
    from tabulate import tabulate

    room, widths, stacked = widths_within(grid, _WIDTH)
    aligns = ["right" if head.right else "left" for head in grid.heads]
    cells = []
    for entry in grid.entries:
        label = "".join(text for text, _ in entry.label)
        name = label.lstrip(" │├└─")
        indent = len(label) - len(name)
        texts = [_stack(wrap(name, max(1, room - indent)), "t", "l")]
        texts[0] = rf"\hspace{{{indent / 4:g}em}}" * bool(indent) + texts[0]
        for text, width, align in zip(entry.cells, widths, aligns, strict=True):
            texts.append(_stack(wrap(text, width), "t", align[0]))
        cells.append(texts)
    titles = [latex_text(grid.label)]
    for head, align in zip(grid.heads, aligns, strict=True):
        titles.append(
            _stack(filter(None, stacked_head(head.text)) if stacked else [head.text], "b", align[0])
        )
    aligned = ["left", *aligns] if cells else None
    body = tabulate(cells, titles, tablefmt="latex_raw", colalign=aligned, disable_numparse=True)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):  # its own booktabs would escape TeX again
        body = body.replace(r"\hline", rule, 1)
    title = " ".join(filter(None, grid.title)) + ". " if grid.title else ""
    caption = latex_text(f"{said}. {title}{lines}".strip())
    return f"{_BEGIN}\\caption{{{caption}}}\n{body}\n\\end{{table}}\n"


def _stack(lines: Iterable[str], at: str, align: str) -> str:
    """A text of several lines in a cell, whose top or bottom line is that of the row."""
    texts = [latex_text(line) for line in lines]
    if len(texts) < 2:
        return "".join(texts)
    return rf"\begin{{tabular}}[{at}]{{@{{}}{align}@{{}}}}" + r" \\ ".join(texts) + r"\end{tabular}"
