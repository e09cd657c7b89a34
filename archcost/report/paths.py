"""The execution paths on the terminal: what each does, what it supports, and what compiled kernels serve."""

from __future__ import annotations

import textwrap
from typing import Any

__all__ = ["KERNELS", "paths_record", "paths_text"]

KERNELS = "no compiled kernels: tensor operations serve"


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
    return {"paths": known, "kernels": KERNELS}
