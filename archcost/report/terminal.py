"""A Document on the terminal: within its width, in colours where it has them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from archcost.report.document import Asked, Document, at_least, fitted_in
from archcost.report.grid import Piece, lay_out
from archcost.report.text import encodable, fit, width_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["plain_text", "printed", "show"]

_ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "…": "~", "▲": "^", "▼": "v"})


def show(document: Document, asked: Asked, width: int | None = None, console: Console | None = None) -> None:
    """Print a document: in colour and within the width on a terminal, plain and uncut in a pipe."""
    from rich.console import Console as RichConsole

    class OurConsole(RichConsole):
        """A console that raises BrokenPipeError for the caller, where rich would end the process."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = OurConsole() if console is None else console
    _paint(_lines(document, asked, _width_of(console, width)), console)


def plain_text(document: Document, asked: Asked, width: int | None = None) -> str:
    """The document as plain text, uncut unless a width is given."""
    return _plain(_lines(document, asked, width))


def printed(document: Document) -> str:
    """The document for ``print``: as wide as the terminal of stdout, in characters that its encoding has."""
    from rich.console import Console

    width = _width_of(Console(), None)
    return _plain(_lines(document, Asked(), width), getattr(sys.stdout, "encoding", None))


def _lines(document: Document, asked: Asked, width: int | None) -> list[list[Piece]]:
    """Every line in pieces: headings, lines, tables and notes, with empty lines between them."""
    at_least("width", width, 1)
    grids, left_out = fitted_in(document, asked, width)
    parts = [_wrapped(*document.warning, width) if document.warning else []]
    parts[0] += [line for heading in document.headings for line in _heading(*heading, width)]
    parts[0] += [line for text in document.lines for line in _wrapped("", text, width)]
    parts += [
        [*_wrapped(*grid.title, width), *lay_out(grid, width)] if grid.title else lay_out(grid, width)
        for grid in grids
    ]
    notes = [
        *([("Columns hidden at this width", ", ".join(left_out))] if left_out else []),
        *document.notes_for(asked, grids),
        *([("More", document.more)] if document.more and not asked.full else []),
    ]
    parts.append([line for note in notes for line in _wrapped(*note, width)])
    lines: list[list[Piece]] = []
    for part in filter(None, parts):
        lines += [[], *part] if lines else part
    return lines


def _heading(first: str, rest: str, width: int | None) -> list[list[Piece]]:
    if width is None or width_of(first) + width_of(rest) + 2 <= width:
        return [[(first, "bold"), (f"  {rest}" if rest else "", "")]]
    return [[(fit(first, width), "bold")], [(fit(f"  {rest}", width), "")]]


def _width_of(console: Console, width: int | None) -> int | None:
    """The limit on the width: the given one, COLUMNS, the terminal's, or None in a pipe."""
    if width is not None:
        return width
    asked: int | None = getattr(console, "_width", None)
    if asked is not None:
        return asked
    try:
        on_terminal = console.file.isatty()
    except (AttributeError, ValueError):
        on_terminal = False
    return console.width if on_terminal else None


def _paint(lines: Iterable[Sequence[Piece]], console: Console) -> None:
    """Print the lines, with styles only where the console is a terminal with colours."""
    from rich.text import Text

    styled = console.is_terminal and not console.no_color and not console.is_dumb_terminal
    for pieces in lines:
        text = Text(no_wrap=True, end="")
        for part, style in _stripped(pieces):
            text.append(
                _encodable(part, console.encoding), ("dim" if style == "guide" else style) if styled else ""
            )
        console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _plain(lines: Iterable[Sequence[Piece]], encoding: str | None = None) -> str:
    """The lines as plain text."""
    return "\n".join(_encodable("".join(part for part, _ in line).rstrip(), encoding) for line in lines)


def _stripped(pieces: Sequence[Piece]) -> list[Piece]:
    kept = list(pieces)
    while kept and not kept[-1][0].strip():
        kept.pop()
    if kept:
        kept[-1] = (kept[-1][0].rstrip(), kept[-1][1])
    return kept


def _encodable(text: str, encoding: str | None) -> str:
    if text.isascii():
        return text
    if encoding is not None:
        try:
            text.encode(encoding)
        except (UnicodeEncodeError, LookupError):
            # The tree's guides have an ASCII form; names are escaped.
            return encodable(text.translate(_ASCII), encoding)
    return text


def _wrapped(what: str, text: str, width: int | None) -> list[list[Piece]]:
    """A note: its subject, then its text, wrapped with a hanging indent where the width is limited."""
    first: Piece = (f"{what}: " if what else "", "bold")
    if width is None:
        return [[first, (text, "")]]
    from textwrap import TextWrapper

    if width_of(first[0]) > width - 12:
        lines = TextWrapper(width=max(width, 20), initial_indent="  ", subsequent_indent="  ").wrap(text)
        return [[(fit(first[0].rstrip(), width), "bold")], *([(line, "")] for line in lines)]
    wrapper = TextWrapper(width=max(width, 20), initial_indent=" " * len(first[0]), subsequent_indent="  ")
    lines = wrapper.wrap(text) or [""]
    head = lines[0][len(first[0]) :] if lines[0].startswith(" " * len(first[0])) else lines[0]
    return [[first, (head, "")], *([(line, "")] for line in lines[1:])]
