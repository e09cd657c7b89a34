"""Lines in pieces onto a console or into a string; colours on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

from archcost.report.grid import Piece
from archcost.report.text import encodable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console_for", "paint", "plain", "print_encoding", "width_for", "wrapped"]

_ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "…": "~"})


def console_for(console: Console | None, file: IO[str] | None) -> Console:
    """The caller's console, or one on ``file`` (stdout)."""
    if console is not None:
        return console
    from rich.console import Console

    return Console(file=file)


def width_for(console: Console, width: int | None) -> int | None:
    """The width to keep to: the one asked for, the terminal's, or none in a pipe (COLUMNS sets one)."""
    if width is not None:
        return width
    asked: Any = getattr(console, "_width", None)
    if asked is not None:
        return int(asked)
    try:
        on_terminal = console.file.isatty()
    except (AttributeError, ValueError):
        on_terminal = False
    return console.width if on_terminal else None


def paint(lines: Iterable[Sequence[Piece]], console: Console) -> None:
    """Write the lines, with styles only where the console is a terminal that wants them."""
    from rich.text import Text

    styled = console.is_terminal and not console.no_color and not console.is_dumb_terminal
    for pieces in lines:
        text = Text(no_wrap=True, end="")
        for part, style in _stripped(pieces):
            text.append(
                _encodable(part, console.encoding), ("dim" if style == "guide" else style) if styled else ""
            )
        console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


def plain(lines: Iterable[Sequence[Piece]], encoding: str | None = None) -> str:
    """The lines as plain text."""
    return "\n".join(_encodable("".join(part for part, _ in line).rstrip(), encoding) for line in lines)


def print_encoding() -> str | None:
    """What ``print`` will encode a string with."""
    return getattr(sys.stdout, "encoding", None)


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
            # Guides have a plain form; names that do not fit are written out.
            return encodable(text.translate(_ASCII), encoding)
    return text


def wrapped(what: str, text: str, width: int | None) -> list[list[Piece]]:
    """A footnote: what it is, then the text, wrapped with a hanging indent where the width is limited."""
    first: Piece = (f"{what}: ", "bold")
    if width is None:
        return [[first, (text, "")]]
    from textwrap import TextWrapper

    wrapper = TextWrapper(width=max(width, 20), initial_indent=" " * len(first[0]), subsequent_indent="  ")
    lines = wrapper.wrap(text) or [""]
    head = lines[0][len(first[0]) :] if lines[0].startswith(" " * len(first[0])) else lines[0]
    return [[first, (head, "")], *([(line, "")] for line in lines[1:])]
