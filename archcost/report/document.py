"""Document: what a result has to show, as data. It knows no result, and no format.

People's formats (terminal, markdown, HTML) show the headings, the lines, the tables that are meant for people
and the notes; data formats (pandas, CSV) the rows of one table, and JSON the record.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from archcost.errors import SpecError
from archcost.report.grid import Entry, Grid, Head
from archcost.report.text import visible
from archcost.report.units import count_text

__all__ = [
    *("TREE_DEPTH", "Asked", "Column", "Depth", "Document", "Note", "Table"),
    *("at_least", "choose", "find", "near", "ordered", "shown_in"),
]

Depth = int | Literal["auto"] | None
"""How many levels of modules: ``"auto"`` is what suits people, and everything in data; None is everything."""

Note = tuple[str, str]
"""What it is about, and the text."""

TREE_DEPTH = 3


@dataclass(frozen=True)
class Asked:
    """What a user asked to see of a result.

    Attributes:
        columns: their names, in place of those that suit most.
        depth: levels of modules, 0 for the whole model alone.
        sort: a column, the largest first (text from A to Z).
        top: how many rows, the largest by ``sort``.
        by: which of the result's tables.
    """

    columns: tuple[str, ...] | None = None
    depth: Depth = "auto"
    sort: str | None = None
    top: int | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):
            object.__setattr__(self, "columns", (self.columns,))
        if isinstance(self.depth, str) and self.depth != "auto":
            raise SpecError(f"depth is {self.depth!r}; it takes a whole number, 'auto' or None")
        at_least("depth", None if self.depth == "auto" else self.depth, 0)
        at_least("top", self.top, 1)

    @property
    def is_flat(self) -> bool:
        """Whether rows are sorted or cut, and so stand in no tree."""
        return self.sort is not None or self.top is not None

    def without_depth(self, what: str) -> None:
        """Raises SpecError where a depth is asked for, of what has no levels."""
        if self.depth != "auto":
            raise SpecError(f"{what} has no levels of modules; leave depth out")

    def depth_for(self, people: Depth) -> int | None:
        """The depth, where ``people`` is that of a table that nobody said anything about."""
        depth = people if self.depth == "auto" else self.depth
        return None if depth == "auto" else depth


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what it is called and means, how to read it from a row, how people see it."""

    name: str
    header: str
    meaning: str
    get: Callable[[Any], Any]
    unit: str = ""
    show: Callable[[Any], str] = count_text
    in_full: Callable[[Any], str] | None = None
    """The same for a file, where ``show`` leaves something out."""
    dtype: str = "int64"
    """Its type in pandas: int64, Int64 and Float64 (None is possible), bool, str or object."""
    missing: str = "?"
    """How None is shown: ``?`` is not known, ``-`` does not apply."""
    keep: float = 0
    """On a narrow terminal, columns with the lowest go first."""
    group: str = ""
    """Of those that stand together, as in `archcost.report.grid.Head`."""
    lower_bound: Callable[[Any], bool] = field(default=lambda row: False)
    reads_as_number: bool = False
    """Text that is aligned as numbers are."""
    summed: bool = True
    """Means something for several rows together."""
    additive: bool = False
    """Adds up from modules to the module that holds them."""

    @property
    def head(self) -> Head:
        return Head(self.header, self.keep, self.is_number or self.reads_as_number, self.group)

    @property
    def is_number(self) -> bool:
        return self.dtype not in ("str", "object", "bool")

    def text(self, row: Any) -> str:
        """The value for people; an unknown is never 0, and a lower bound says that it is one."""
        value = self.get(row)
        if value is None:
            return self.missing
        if self.lower_bound(row):
            return f">={self.show(value)}" if value else "?"
        return visible(self.show(value))

    def cell(self, row: Any) -> Any:
        """The value for a CSV file: a number, or text in full."""
        value = self.get(row)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return (self.in_full or self.show)(value)


@dataclass(frozen=True)
class Table:
    """Rows of a result under typed columns."""

    name: str
    """As ``by`` names it, and JSON."""
    columns: Sequence[Column]
    """All that there are; of the first, people see the text as the label of each line."""
    rows: Callable[[], Sequence[Any]]
    """For data: sorted and cut as was asked."""
    shown: Sequence[str] | None = None
    """The names of the columns that people see unasked; None: all."""
    title: Note | None = None
    """A line above it, where several tables stand below each other."""
    label: str | None = None
    """The head over the labels; None: the first column's."""
    lines: Callable[[Sequence[Column]], Sequence[Entry]] | None = None
    """For people: the lines under these columns; None: the rows, one line each."""
    only_known: bool = False
    """Columns of which nothing is known are not shown unasked."""
    complete: Sequence[str] | None = None
    """The names of the columns that data get; None: those asked for, or all."""
    is_summary: bool = False
    """It stands above the table that columns, depth, sort and top are of, always the same."""

    @classmethod
    def of_texts(
        cls, name: str, label: str, heads: Mapping[str, float], lines: Mapping[str, Sequence[str]]
    ) -> Table:
        """A summary: by its label the texts of each line, under heads with what they `keep`."""
        columns = [
            Column(head, head, "", partial(_cell, at), show=str, missing="", keep=keep)
            for at, (head, keep) in enumerate(heads.items())
        ]
        first = Column(label, label, "", lambda row: row[0], show=str, dtype="str")
        return cls(name, [first, *columns], lambda: list(lines.items()), is_summary=True)

    def for_data(self, asked: Asked) -> list[Column]:
        """The columns asked for, or all of them."""
        names = self.complete if self.complete else [column.name for column in self.columns]
        return choose(names if self.complete else asked.columns, self.columns, names)

    def for_people(self, asked: Asked) -> list[Column]:
        """The columns asked for, or those that people see unasked, but for the label's."""
        names = None if self.is_summary or self.complete else asked.columns
        default = [column.name for column in self.columns] if self.shown is None else self.shown
        chosen = [one for one in choose(names, self.columns, default) if one is not self.columns[0]]
        if self.only_known and names is None:
            grid = self.grid(chosen)
            chosen = [column for i, column in enumerate(chosen) if not grid.is_empty(i)]
        return chosen

    def grid(self, columns: Sequence[Column]) -> Grid:
        """The lines for people under these columns, before anything is cut."""
        label = self.columns[0]
        entries = (
            [Entry(((label.text(row), ""),), tuple(c.text(row) for c in columns)) for row in self.rows()]
            if self.lines is None
            else self.lines(columns)
        )
        head = label.header if self.label is None else self.label
        return Grid(head, [c.head for c in columns], entries, self.title)


def _cell(at: int, row: Any) -> Any:
    return row[1][at]


@dataclass(frozen=True)
class Document:
    """What one result shows, and says of itself."""

    schema: str
    """The name and the version of its JSON: ``archcost.analysis/1``."""
    headings: Sequence[tuple[str, str]]
    """Of which model it is, and under which conditions; a line each."""
    tables: Sequence[Table]
    """The first is what pandas and CSV have unasked."""
    shown: Sequence[Table]
    """Those for people, in order."""
    record: Callable[[], Mapping[str, Any]]
    """For JSON: everything, as plain values."""
    lines: Sequence[str] = ()
    """What people read before any table."""
    notes: Callable[[Sequence[Grid]], Sequence[Note]] = lambda grids: ()
    """What people read below the tables, which say what is on show."""

    def by(self, name: str | None) -> Table:
        """The table of that name.

        Raises:
            SpecError: there is none.
        """
        return self._find(name, self.tables)

    def for_people(self, asked: Asked) -> Sequence[Table]:
        """The tables for people: those that are shown, or the one asked for."""
        return self.shown if asked.by is None else [self._find(asked.by, [*self.shown, *self.tables])]

    def _find(self, name: str | None, tables: Sequence[Table]) -> Table:
        for table in tables:
            if name in (None, table.name):
                return table
        if not self.tables:
            raise SpecError("there is no table in this; it is text, HTML or JSON")
        raise SpecError(f"by is {name!r}{near(name, (table.name for table in self.tables))}")


def shown_in(document: Document, asked: Asked) -> list[Grid]:
    """The tables for people, with no limit to their width."""
    return [table.grid(table.for_people(asked)) for table in document.for_people(asked)]


def near(word: object, words: Iterable[str]) -> str:
    """The end of an error message: the closest words, or all of them."""
    known = list(words)
    # A unit is easily left out: `peak_memory` is meant for `peak_memory_bytes`.
    close = [w for w in known if str(word) and w.startswith(str(word))][:3]
    close = close or difflib.get_close_matches(str(word), known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; take one of {', '.join(known)}"


def find(name: object, columns: Sequence[Column]) -> Column:
    """The column of that name; raises SpecError naming close ones."""
    for column in columns:
        if column.name == name:
            return column
    raise SpecError(f"there is no column {name!r}{near(name, (c.name for c in columns))}")


def choose(names: Iterable[str] | None, columns: Sequence[Column], default: Iterable[str]) -> list[Column]:
    """The columns asked for, in that order, each once; the default where nothing was asked."""
    wanted = list(dict.fromkeys(default if names is None else names))
    if not wanted:
        raise SpecError("columns is empty; name at least one, or leave it out")
    return [find(name, columns) for name in wanted]


def ordered(
    rows: Sequence[Any], columns: Sequence[Column], asked: Asked, by: str, cut: bool = True
) -> list[Any]:
    """The rows as they come, or by the column that was asked for (``by``, where only ``top`` was).

    The largest numbers come first, text from A to Z, unknowns last.
    """
    if not asked.is_flat:
        return list(rows)
    column = find(asked.sort or by, columns)
    known = [row for row in rows if column.get(row) is not None]
    unknown = [row for row in rows if column.get(row) is None]
    reverse = column.dtype not in ("str", "object")
    return (sorted(known, key=column.get, reverse=reverse) + unknown)[: asked.top if cut else None]


def at_least(name: str, value: Any, least: int) -> None:
    """Raises SpecError unless the option is None or a whole number of at least ``least``."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise SpecError(f"{name} is {value!r}; it takes a whole number of at least {least}, or None")
