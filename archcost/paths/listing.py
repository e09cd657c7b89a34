"""The execution paths as a result: what each does, what it supports, and what compiled kernels serve."""

from __future__ import annotations

from dataclasses import dataclass

from archcost.report.columns import words
from archcost.report.document import Asked, Document, Note, Table, ordered
from archcost.report.result import Result

__all__ = ["ListedPath", "PathList", "listed"]


@dataclass(frozen=True)
class ListedPath:
    """What a path says of itself."""

    name: str
    idea: str
    supports: str
    compiled: str
    """What a compiled kernel of it is for; empty where there is none here."""
    source: str

    @property
    def note(self) -> Note:
        compiled = f"; compiled for {self.compiled}" if self.compiled else ""
        return self.name, f"{self.idea}; supports {self.supports}{compiled}; from {self.source}"


_COLUMNS = (
    words("name", "Path", "Its name", keep=4),
    words("idea", "Idea", "What it does", keep=3),
    words("supports", "Supports", "Which convolutions it can execute", keep=2),
    words(
        "compiled",
        "Compiled for",
        "Which of them compiled kernels serve",
        lambda one: one.compiled or None,
        keep=1,
    ),
    words("source", "From", "Who described it"),
)


@dataclass(frozen=True)
class PathList(Result):
    """Every execution path: for people a paragraph each, or a table of the columns that are asked for.

    The schema of ``archcost.paths/1``: ``paths``, a list, each with every column; ``kernels``; ``notes``.
    """

    paths: tuple[ListedPath, ...]
    kernels: str
    """Whether compiled kernels are there, for which instruction sets, and which paths use them."""
    notes: tuple[str, ...] = ()
    """Where the paths of another package could not be loaded."""

    def document(self, asked: Asked) -> Document:
        asked.without_depth("the list of paths")
        paths = ordered(self.paths, _COLUMNS, asked, "name")
        table = Table("paths", _COLUMNS, lambda: paths)
        in_table = asked.columns is not None or asked.by is not None
        told = [] if in_table else [path.note for path in paths]
        return Document(
            schema="archcost.paths/1",
            headings=[(f"{len(self.paths)} ways to execute a convolution", "")],
            tables=[table],
            shown=[table] * in_table,
            record=lambda: {
                "paths": [{c.name: getattr(path, c.name) for c in table.for_data(asked)} for path in paths],
                "kernels": self.kernels,
                "notes": self.notes,
            },
            notes=lambda grids: [*told, ("Kernels", self.kernels), *(("Note", n) for n in self.notes)],
        )


def listed() -> PathList:
    """Those that are registered, and the kernels that were built."""
    from archcost.paths.registry import available, get, table

    found = [(path, path.compiled_for()) for path in map(get, available())]
    rows = (ListedPath(p.name, p.idea, p.limits, compiled, p.source) for p, compiled in found)
    return PathList(tuple(rows), _kernels([path.name for path, compiled in found if compiled]), table.notes)


def _kernels(users: list[str]) -> str:
    from archcost import kernels

    if kernels.library() is None:
        return f"none ({kernels.why_not()}); tensor operations serve"
    return (
        f"built for {', '.join(kernels.usable_isas())}, {kernels.isa()} in use; they serve {', '.join(users)}"
    )
