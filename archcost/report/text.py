"""Names come from the user and may hold anything: here they are made plain text for each format."""

from __future__ import annotations

import re

__all__ = ["csv_cell", "encodable", "fit", "html_text", "markdown_cell", "visible", "well_formed", "width_of"]

# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
# An underscore inside a word is no emphasis, so encoder_layer_0 stays readable in the source.
_MARKDOWN = re.compile(r"([\\`*|<\[\]$])|((?<![^\W_])_|_(?![^\W_]))")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def visible(text: object) -> str:
    r"""The text with everything that cannot be seen written out: a newline as ``\n``, ESC as ``\x1b``."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def well_formed(text: str) -> str:
    """The text with lone surrogates written out, which UTF-8 and strict JSON cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def encodable(text: str, encoding: str | None) -> str:
    r"""The text with what a stream of that encoding cannot hold written out as ``\xe9``."""
    encoding = encoding or "utf-8"
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def markdown_cell(text: object) -> str:
    """One cell of a pipe table: no newline, no unescaped pipe, no markup, no HTML."""
    return _ENTITY.sub("&amp;", _MARKDOWN.sub(r"\\\g<0>", visible(text)))


def csv_cell(text: object) -> str:
    """One cell of a CSV file: no control character, and a leading ``'`` before what looks like a formula."""
    plain = visible(text)
    if plain.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(plain):
        return "'" + plain
    return plain


def html_text(text: object) -> str:
    """Text inside an element or a quoted attribute."""
    import html

    return html.escape(visible(text), quote=True)


def width_of(text: str) -> int:
    """How many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit(text: str, width: int) -> str:
    """The text in at most ``width`` cells, an ellipsis in place of what is cut."""
    if width_of(text) <= width:
        return text
    if width < 1:
        return ""
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip() + "…"
