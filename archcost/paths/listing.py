"""The list of execution paths as a result."""

from __future__ import annotations

from dataclasses import dataclass

from archcost.report.columns import words
from archcost.report.document import Asked, Column, Document, Note, Table, ordered
from archcost.report.result import Result

__all__ = ["ListedPath", "PathList", "listed"]


@dataclass(frozen=True)
class ListedPath:
    """The description of a path."""

    name: str
    idea: str
    """Its algorithm, in one line."""
    supports: str
    """The convolutions that it can execute."""
    compiled: str
    """The convolutions that compiled kernels execute on this machine; empty where there are none."""
    source: str
    """The paper or function that it comes from."""

    @property
    def note(self) -> Note:
        compiled = f"; compiled for {self.compiled}" if self.compiled else ""
        return self.name, f"{self.idea}; supports {self.supports}{compiled}; from {self.source}"


_COLUMNS: tuple[Column[ListedPath], ...] = (
    words("name", "Path", "Name of the path", keep=4),
    words("idea", "Idea", "Algorithm of the path", keep=3),
    words("supports", "Supports", "Convolutions that the path can execute", keep=2),
    words(
        "compiled",
        "Compiled for",
        "Convolutions that compiled kernels execute on this machine",
        lambda one: one.compiled or None,
        keep=1,
    ),
    words("source", "From", "Paper or function that the path comes from"),
)


@dataclass(frozen=True)
class PathList(Result):
    """Every execution path: printed as a paragraph each, or as a table where columns are asked for.

    The schema of ``archcost.paths/1``: ``paths``, a list, each with every column; ``kernels``; ``notes``.
    """

    paths: tuple[ListedPath, ...]
    kernels: str
    """The instruction sets of the compiled kernels, and the paths that use them; or why there are none."""
    notes: tuple[str, ...] = ()
    """The paths of other packages that could not be loaded, and why."""

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
    """The registered paths and the compiled kernels as a result."""
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
