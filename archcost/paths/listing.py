"""The execution paths on the terminal: what each does, what it supports, and what compiled kernels serve."""

from __future__ import annotations

import textwrap
from typing import Any

from archcost.report.text import visible

__all__ = ["kernels_text", "paths_record", "paths_text"]


def kernels_text() -> str:
    """Whether the compiled kernels are there, for which instruction sets, and which paths use them."""
    from archcost import kernels

    if kernels.library() is None:
        return f"none ({kernels.why_not()}); tensor operations serve"
    from archcost.paths.registry import available, get

    users = ", ".join(name for name in available() if get(name).compiled_for())
    return f"built for {', '.join(kernels.usable_isas())}, {kernels.isa()} in use; they serve {users}"


def paths_text(width: int = 100) -> str:
    """A paragraph for each path, then the kernels."""
    record = paths_record()
    column = max(len(path["name"]) for path in record["paths"]) + 2
    lines: list[str] = []
    for path in record["paths"]:
        said = [path["idea"], f"supports {path['supports']}", f"from {path['source']}"]
        if path["compiled"]:
            said.insert(2, f"compiled for {path['compiled']}")
        body = [line for text in said for line in textwrap.wrap(text, max(20, width - column))]
        lines += [f"{path['name'] if not i else '':{column}}{line}" for i, line in enumerate(body)]
    said = [f"{len(record['paths'])} paths; kernels: {record['kernels']}"]
    said += [f"Note: {visible(note)}" for note in record.get("notes", ())]
    return "\n".join([*lines, "", *(line for text in said for line in textwrap.wrap(text, width)), ""])


def paths_record() -> dict[str, Any]:
    """The same for JSON; with ``notes`` where the paths of other packages could not be loaded."""
    from archcost.paths.registry import available, get, table

    paths = map(get, available())
    known = [
        {
            "name": p.name,
            "idea": p.idea,
            "supports": p.limits,
            "compiled": p.compiled_for(),
            "source": p.source,
        }
        for p in paths
    ]
    notes = {"notes": list(table.notes)} if table.notes else {}
    return {"paths": known, "kernels": kernels_text(), **notes}
