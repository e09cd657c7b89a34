"""The execution paths on the terminal: what each does, what it supports, and what compiled kernels serve."""

from __future__ import annotations

import textwrap
from typing import Any

__all__ = ["kernels_text", "paths_record", "paths_text"]


def kernels_text() -> str:
    """Whether the compiled kernels are there, and for which instruction sets."""
    from archcost import kernels

    if kernels.library() is None:
        return f"none ({kernels.why_not()}); tensor operations serve"
    return f"built for {', '.join(kernels.usable_isas())}, {kernels.isa()} in use; no path calls them yet"


def paths_text(width: int = 100) -> str:
    """A paragraph for each path, then the kernels."""
    record = paths_record()
    column = max(len(path["name"]) for path in record["paths"]) + 2
    lines: list[str] = []
    for path in record["paths"]:
        for what, text in (("", path["idea"]), ("supports ", path["supports"]), ("from ", path["source"])):
            head = path["name"] if not what else ""
            body = textwrap.wrap(what + text, max(20, width - column))
            lines += [f"{head if not i else '':{column}}{line}" for i, line in enumerate(body)]
    return "\n".join([*lines, "", f"{len(record['paths'])} paths; kernels: {record['kernels']}", ""])


def paths_record() -> dict[str, Any]:
    """The same for JSON."""
    from archcost.paths.registry import available, get

    paths = map(get, available())
    known = [{"name": p.name, "idea": p.idea, "supports": p.limits, "source": p.source} for p in paths]
    return {"paths": known, "kernels": kernels_text()}
