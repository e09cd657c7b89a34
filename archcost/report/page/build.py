"""The page: one HTML file with script, style, data and saved result inside, and a policy against all else.

The policy allows the page's own script and style by their hashes, and nothing from anywhere else: no inline
handler, no image, no connection. Names and other texts come from a user's model: the page holds them as JSON
in a block that is no script, and the script shows them by ``textContent`` only. Charts are drawn by the
page's own code, some hundred lines of SVG: the smallest libraries with an icicle and a linked chart are ten
times as much.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files

from archcost.errors import SpecError
from archcost.report.data import plain, versions
from archcost.report.document import Asked, Document, Listing, shown_in
from archcost.report.page.listing import listing
from archcost.report.page.parts import THIS_FILE
from archcost.report.saving import embedded
from archcost.report.text import html_text, visible
from archcost.report.values import Json

__all__ = ["page"]

_SCRIPTS = ("core.js", "tiles.js", "along.js", "dots.js", "bars.js", "flow.js", "table.js", "page.js")


def page(document: Document, result: object, path: str = "report.html") -> str:
    """The page of a Document as HTML.

    Args:
        document: the contents.
        result: the result itself, which `archcost.load_result` reads back from the page.
        path: the file of the page, for commands that read it.
    """
    script = "".join(_asset(name) for name in _SCRIPTS)
    style = _asset("page.css")
    contents = {
        "TITLE": html_text(_title(document)),
        "POLICY": "; ".join(
            (
                "default-src 'none'",
                f"script-src '{_hash(script)}'",
                f"style-src '{_hash(style)}'",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": _block(_data(document, path)),
        "SAVED": _saved(result),
    }
    # The parts are joined, not replaced one after the other: a name may be one of the marks.
    parts = _asset("page.html").split("@@")
    return "".join(contents[part] if at % 2 else part for at, part in enumerate(parts))


def _title(document: Document) -> str:
    return ", ".join(visible(first) for first, _ in document.headings) or document.schema


def _saved(result: object) -> str:
    """The saved result; empty for one that holds a model and cannot be saved."""
    try:
        return embedded(result)
    except SpecError:
        return ""


def _asset(name: str) -> str:
    return files("archcost.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _block(data: Mapping[str, Json]) -> str:
    """JSON that cannot end its element or open a comment: ``<`` as an escape."""
    text = json.dumps(plain(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(document: Document, path: str) -> dict[str, Json]:
    made, every = document.page(), Asked(full=True)
    grids = shown_in(document, every)
    advice = [replace(one, command=_naming(one.command, path)) for one in made.advice]
    tables = map(Listing, document.tables) if made.tables is None else made.tables
    return {
        **versions(),
        "schema": document.schema,
        "headings": document.headings,
        "lines": document.lines if made.lines is None else made.lines,
        "warnings": made.warnings,
        "facts": _records(made.facts),
        "costly_title": made.costly_title,
        "costly": _records(made.costly),
        "advice": _records(advice),
        "pictures": [picture.record() for picture in made.pictures],
        "tables": [listing(one) for one in tables],
        "notes": document.notes(grids),
        "footnotes": document.footnotes(grids),
    }


def _naming(command: str, path: str) -> str:
    """A command with the file of the page, as a shell or as Python takes it."""
    quoted = shlex.quote(path) if command.startswith("archcost ") else repr(path)
    return command.replace(THIS_FILE, visible(quoted))


def _records(found: Sequence[object]) -> list[Json]:
    return [{name: getattr(one, name) for name in type(one).__slots__} for one in found]  # type: ignore[attr-defined]
