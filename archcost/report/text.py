"""Escaping of text for each format: names come from the user and may hold any character."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    *("csv_cell", "encodable", "fit", "fit_middle", "html_text", "markdown_cell", "near", "visible"),
    *("well_formed", "width_of"),
]

# The least width that has room for both ends of a text.
_LEAST_ENDS = 12
# Characters with which a formula of a spreadsheet begins.
_FORMULA = ("=", "+", "-", "@")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
# An underscore inside a word is no emphasis, so encoder_layer_0 stays readable in the source.
_MARKDOWN = re.compile(r"([\\`*|<\[\]$])|((?<![^\W_])_|_(?![^\W_]))")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def visible(text: str) -> str:
    r"""The text with unprintable characters escaped: a newline as ``\n``, ESC as ``\x1b``."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def well_formed(text: str) -> str:
    """The text with lone surrogates escaped, which UTF-8 and strict JSON cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def encodable(text: str, encoding: str | None) -> str:
    r"""The text with characters that the encoding lacks escaped as ``\xe9``."""
    encoding = encoding or "utf-8"
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def markdown_cell(text: str) -> str:
    """Text for a cell of a pipe table: no newline, no unescaped pipe, no markup, no HTML."""
    return _ENTITY.sub("&amp;", _MARKDOWN.sub(r"\\\g<0>", visible(text)))


def csv_cell(text: str) -> str:
    """Text for a cell of a CSV file: no control character, a leading ``'`` where it looks like a formula."""
    plain = visible(text)
    if plain.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(plain):
        return "'" + plain
    return plain


def html_text(text: str) -> str:
    """Text for an HTML element or a quoted attribute."""
    import html

    return html.escape(visible(text), quote=True)


def width_of(text: str) -> int:
    """The width of the text in cells of a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit_middle(text: str, width: int) -> str:
    """The text cut to at most ``width`` cells, a name in its middle: the ends of names tell modules apart."""
    if width_of(text) <= width or width < _LEAST_ENDS or " " in text:
        return fit(text, width)
    end = len(text)
    while width_of(text[end - 1 :]) <= (width - 1) // 2:
        end -= 1
    return fit(text, width - width_of(text[end:])) + text[end:]


def fit(text: str, width: int) -> str:
    """The text cut to at most ``width`` cells, with an ellipsis at its end."""
    if width_of(text) <= width:
        return text
    if width < 1:
        return ""
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip() + "…"


def near(word: str, words: Iterable[str]) -> str:
    """The end of a message about an unknown word: the closest known words, or all of them."""
    known = list(words)
    # A unit is easily left out: `peak_memory` for `peak_memory_bytes`.
    close = [w for w in known if str(word) and w.startswith(str(word))][:3]
    close = close or difflib.get_close_matches(str(word), known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; take one of {', '.join(known)}"
