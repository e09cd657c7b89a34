"""The list of execution paths as a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archcost.report.columns import words, yes
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
    def kernel(self) -> bool:
        """Whether compiled kernels execute some convolutions on this machine."""
        return bool(self.compiled)

    @property
    def note(self) -> Note:
        compiled = f"; compiled for {self.compiled}" if self.compiled else ""
        return self.name, f"{self.idea}; supports {self.supports}{compiled}; from {self.source}"


_MORE = "archcost paths PATH describes a path, archcost paths -v all of them"
_COLUMNS: tuple[Column[ListedPath], ...] = (
    words("name", "Path", "Name of the path", keep=100),
    words("idea", "Idea", "Algorithm of the path", keep=90),
    yes("kernel", "Compiled", "Whether compiled kernels execute some convolutions on this machine", keep=95),
    words("supports", "Supports", "Convolutions that the path can execute", keep=80),
    words(
        "compiled",
        "Compiled for",
        "Convolutions that compiled kernels execute on this machine",
        lambda one: one.compiled or None,
        keep=70,
    ),
    words("source", "From", "Paper or function that the path comes from"),
)


@dataclass(frozen=True)
class PathList(Result):
    """Execution paths: printed as a table, or as a paragraph each.

    The schema of ``archcost.paths/1``: ``paths``, a list, each with every column; ``kernels``; ``notes``.
    """

    paths: tuple[ListedPath, ...]
    kernels: str
    """The instruction sets of the compiled kernels, and the paths that use them; or why there are none."""
    notes: tuple[str, ...] = ()
    """The paths of other packages that could not be loaded, and why."""
    in_detail: bool = False
    """Whether people see a paragraph for each path, unless they ask for columns or a table."""

    def document(self, asked: Asked) -> Document:
        asked.without_depth("the list of paths")
        paths = ordered(self.paths, _COLUMNS, asked, "name")
        table = Table("paths", _COLUMNS, lambda: paths, ("name", "idea", "kernel"))
        in_table = not self.in_detail or asked.columns is not None or asked.by is not None
        told = [] if in_table else [path.note for path in paths]
        told += [("In detail", _MORE)] * (not self.in_detail)
        count = len(self.paths)
        return Document(
            schema="archcost.paths/1",
            headings=[(f"{count} way{'s' * (count != 1)} to execute a convolution", "")],
            tables=[table],
            shown=[table] * in_table,
            record=lambda: {
                "paths": [{c.name: getattr(path, c.name) for c in table.for_data(asked)} for path in paths],
                "kernels": self.kernels,
                "notes": self.notes,
            },
            notes=lambda grids: [*told, ("Kernels", self.kernels), *(("Note", n) for n in self.notes)],
        )


def listed(names: Sequence[str] = (), in_detail: bool = False) -> PathList:
    """The registered paths and the compiled kernels as a result.

    Args:
        names: the paths to list, in detail; by default all.
        in_detail: see `PathList.in_detail`.

    Raises:
        SpecError: there is no path of a name.
    """
    from archcost.paths.registry import available, get, table

    wanted = [get(name) for name in dict.fromkeys(names)]
    every = [ListedPath(p.name, p.idea, p.limits, p.compiled_for(), p.source) for p in map(get, available())]
    rows = [row for row in every if not names or row.name in {path.name for path in wanted}]
    kernels = _kernels([row.name for row in every if row.kernel])
    return PathList(tuple(rows), kernels, table.notes, in_detail or bool(names))


def _kernels(users: list[str]) -> str:
    from archcost import kernels

    if kernels.library() is None:
        return f"none ({kernels.why_not()}); tensor operations serve"
    return (
        f"built for {', '.join(kernels.usable_isas())}, {kernels.isa()} in use; they serve {', '.join(users)}"
    )
