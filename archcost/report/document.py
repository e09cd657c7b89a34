"""Document: the contents of a result as data, independent of the kind of result and of the format.

Formats for people (terminal, markdown, HTML) show headings, lines, the tables in ``shown``, and notes. Data
formats (pandas, CSV) have the rows of a single table; JSON has the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from archcost.errors import SpecError
from archcost.report.grid import Entry, Grid, Head, that_fit
from archcost.report.page.parts import Fact, Picture, Point
from archcost.report.text import near, visible
from archcost.report.units import count_text
from archcost.report.values import Cell, Json

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # The default is for tables of different rows together, as a Document has them.
    RowT = TypeVar("RowT", default=Any)
else:
    from typing import TypeVar

    RowT = TypeVar("RowT")

__all__ = [
    *("TREE_DEPTH", "Asked", "Column", "Depth", "Document", "Get", "Listing", "Note", "Page"),
    *("Show", "Table"),
    *("at_least", "choose", "find", "fitted_in", "folded_in", "ordered", "shown_in"),
]

Get: TypeAlias = Callable[[RowT], Cell]
"""The function that reads a value from a row."""

Show: TypeAlias = Callable[[Any], str]
"""The function that makes the text of a value; it takes the values of its own column."""

Depth = int | Literal["auto", "all"] | None
"""Levels of modules to show. ``"auto"``: as suits people, in data all; None or ``"all"``: all."""

Note = tuple[str, str]
"""A note below the tables: its subject, which is shown in front of it, and its text."""

TREE_DEPTH = 3
"""Levels of modules that a tree shows people when no depth is asked for."""


@dataclass(frozen=True)
class Asked:
    """The options with which a user asked to see a result.

    Attributes:
        columns: names of the columns to show instead of the default ones; kept as a tuple.
        depth: levels of modules to show; 0 is the whole model alone.
        sort: name of the column to sort by, largest numbers first (text from A to Z).
        top: the number of rows to show, the largest by ``sort``.
        by: name of the table to show.
        full: whether to show the details that the first screen leaves out.
    """

    columns: Iterable[str] | None = None
    depth: Depth = "auto"
    sort: str | None = None
    top: int | None = None
    by: str | None = None
    full: bool = False

    def __post_init__(self) -> None:
        if self.columns is not None:
            names = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns)
            object.__setattr__(self, "columns", names)
        if self.depth == "all":
            object.__setattr__(self, "depth", None)
        if isinstance(self.depth, str) and self.depth != "auto":
            raise SpecError(f"depth is {self.depth!r}; it takes a whole number, 'auto', 'all' or None")
        at_least("depth", None if self.depth == "auto" else self.depth, 0)
        at_least("top", self.top, 1)

    @property
    def is_flat(self) -> bool:
        """Whether the rows are a list, sorted or cut off, instead of a tree."""
        return self.sort is not None or self.top is not None

    def without_depth(self, what: str) -> None:
        """Raises SpecError where a depth is asked for; ``what`` has no levels of modules."""
        if self.depth != "auto":
            raise SpecError(f"{what} has no levels of modules; leave depth out")

    def depth_for(self, people: Depth) -> int | None:
        """The depth to use, with ``people`` as the default; None is all levels."""
        depth = people if self.depth == "auto" else self.depth
        return depth if isinstance(depth, int) else None


@dataclass(frozen=True, slots=True)
class Column(Generic[RowT]):
    """A column of a table: its name and meaning, how it is read from a row, and how people see it."""

    name: str
    """The name in data formats and in ``columns``."""
    header: str
    """The head that people see."""
    meaning: str
    """A sentence that explains the values."""
    get: Get[RowT]
    """The value of a row; None where it is not known or does not apply."""
    unit: str = ""
    show: Show = count_text
    """The text of a value for people."""
    in_full: Show | None = None
    """The text of a value for a CSV file, where ``show`` shortens it."""
    dtype: str = "int64"
    """The dtype in pandas: int64, Int64 and Float64 (None is possible), bool, str or object."""
    missing: str = "?"
    """The text for None: ``?`` is not known, ``-`` does not apply."""
    keep: float = 0
    """Priority on a narrow terminal: columns with the lowest are hidden first."""
    group: str = ""
    """Name of the group of columns that are hidden together; see `archcost.report.grid.Head`."""
    lower_bound: Callable[[RowT], bool] = field(default=lambda row: False)
    """Whether the value of a row is a lower bound, shown as ``>=``."""
    reads_as_number: bool = False
    """Whether text is aligned to the right, as numbers are."""
    summed: bool = True
    """Whether a value for several rows together means something."""
    additive: bool = False
    """Whether the values of child modules add up to that of their parent."""

    @property
    def head(self) -> Head:
        return Head(self.header, self.keep, self.is_number or self.reads_as_number, self.group)

    @property
    def is_number(self) -> bool:
        return self.dtype not in ("str", "object", "bool")

    def text(self, row: RowT) -> str:
        """The text of a row's value for people; an unknown is never 0, a lower bound begins with ``>=``."""
        value = self.get(row)
        if value is None:
            return self.missing
        if self.lower_bound(row):
            return f">={self.show(value)}" if value else "?"
        return visible(self.show(value))

    def number(self, row: RowT) -> float | None:
        """The value of a row under a column of numbers."""
        value = self.get(row)
        return value if isinstance(value, (int, float)) else None

    def cell(self, row: RowT) -> str | float | None:
        """The value of a row for a CSV file: a number, a boolean, None, or text in full."""
        value = self.get(row)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return (self.in_full or self.show)(value)


@dataclass(frozen=True)
class Table(Generic[RowT]):
    """A table of a result: rows under typed columns."""

    name: str
    """The name in ``by`` and in JSON."""
    columns: Sequence[Column[RowT]]
    """All columns; the text of the first is the label of each line for people."""
    rows: Callable[[], Sequence[RowT]]
    """The rows for data formats, sorted and cut off as asked."""
    shown: Sequence[str] | None = None
    """Names of the columns that people see by default; None: all."""
    title: Note | None = None
    """A line above the table, where a result has several."""
    label: str | None = None
    """The head over the labels; None: that of the first column."""
    lines: Callable[[Sequence[Column[RowT]]], Sequence[Entry]] | None = None
    """The lines for people under the given columns; None: one for each of ``rows``."""
    only_known: bool = False
    """Whether columns without any known value are hidden by default."""
    complete: Sequence[str] | None = None
    """Names of the columns in data formats; None: those asked for, or all."""
    is_summary: bool = False
    """Whether the table is a summary, to which the options columns, depth, sort and top do not apply."""
    folded: str = ""
    """The line under which markdown and HTML fold the table away; empty: they show it."""

    @staticmethod
    def of_texts(
        name: str, label: str, heads: Mapping[str, float], lines: Mapping[str, Sequence[str]]
    ) -> Table[tuple[str, Sequence[str]]]:
        """A summary table made of texts.

        Args:
            name: the name of the table.
            label: the head over the labels.
            heads: the heads of the columns, each with its ``keep``.
            lines: by label, the texts of a line.
        """
        columns: list[Column[tuple[str, Sequence[str]]]] = [
            Column(head, head, "", partial(_cell, at), show=str, missing="", keep=keep)
            for at, (head, keep) in enumerate(heads.items())
        ]
        first = Column(label, label, "", lambda row: row[0], show=str, dtype="str")
        return Table(name, [first, *columns], lambda: list(lines.items()), is_summary=True)

    def for_data(self, asked: Asked) -> list[Column[RowT]]:
        """The columns of data formats: those asked for, or all."""
        names = self.complete if self.complete else [column.name for column in self.columns]
        return choose(names if self.complete else asked.columns, self.columns, names)

    def for_people(self, asked: Asked) -> list[Column[RowT]]:
        """The columns that people see, without that of the labels: those asked for, or the default ones."""
        names = None if self.is_summary or self.complete else asked.columns
        default = [column.name for column in self.columns] if self.shown is None else self.shown
        chosen = [c for c in choose(names, self.columns, default) if c is not self.columns[0]]
        if self.only_known and names is None:
            grid = self.grid(chosen)
            chosen = [column for i, column in enumerate(chosen) if not grid.is_empty(i)]
        return chosen

    def grid(self, columns: Sequence[Column[RowT]]) -> Grid:
        """The lines for people under the given columns, before they are fitted to a width."""
        label = self.columns[0]
        entries = (
            [Entry(((label.text(row), ""),), tuple(c.text(row) for c in columns)) for row in self.rows()]
            if self.lines is None
            else self.lines(columns)
        )
        head = label.header if self.label is None else self.label
        return Grid(head, [c.head for c in columns], entries, self.title, self.folded)


def _cell(at: int, row: tuple[str, Sequence[str]]) -> str:
    return row[1][at]


@dataclass(frozen=True)
class Listing:
    """A table of the page."""

    table: Table
    shown: Sequence[str] | None = None
    """The columns to show at first; None: those that people see."""
    levels: Sequence[int] | None = None
    """The level of each row in a tree; None: the rows are a list."""


@dataclass(frozen=True)
class Page:
    """The contents of a page, beside the headings, lines and notes of its Document."""

    warnings: Sequence[str] = ()
    """Lines at the very top."""
    facts: Sequence[Fact] = ()
    costly: Sequence[Point] = ()
    """The things that cost most."""
    costly_title: str = "What costs most"
    advice: Sequence[Point] = ()
    """Advice, with the gain."""
    pictures: Sequence[Picture] = ()
    lines: Sequence[str] | None = None
    """Lines of text below the facts; None: those of the Document."""
    tables: Sequence[Listing] | None = None
    """The tables, the first of them unfolded; None: those of the Document for data."""


@dataclass(frozen=True)
class Document:
    """The contents of a result, from which every format is made."""

    schema: str
    """Name and version of the JSON, such as ``archcost.analysis/1``."""
    headings: Sequence[tuple[str, str]]
    """Lines at the top: the model, and the conditions."""
    tables: Sequence[Table]
    """The tables for data formats; the first is the default."""
    shown: Sequence[Table]
    """The tables for people, in order."""
    record: Callable[[], Mapping[str, Json]]
    """The contents of the JSON as plain values."""
    lines: Sequence[str] = ()
    """Lines of text above the tables."""
    notes: Callable[[Sequence[Grid]], Sequence[Note]] = lambda grids: ()
    """The notes below the given tables."""
    page: Callable[[], Page] = Page
    """The facts and pictures of the page."""
    details: Sequence[Table] = ()
    """Tables that the terminal leaves out, and markdown and HTML fold away, unless `Asked.full`."""
    footnotes: Callable[[Sequence[Grid]], Sequence[Note]] = lambda grids: ()
    """The notes that are left out or folded away with the details."""
    folded: str = ""
    """The line under which markdown and HTML fold the details away."""
    more: str = ""
    """The note of a terminal on how to see the details."""
    warning: Note | None = None
    """Warnings that come before anything else, above the headings."""

    def by(self, name: str | None) -> Table:
        """The table of the given name, or the first for None; raises SpecError where there is none."""
        return self._find(name, self.tables)

    def for_people(self, asked: Asked) -> Sequence[Table]:
        """The tables for people: those in ``shown``, with the details if asked, or the table asked for."""
        if asked.by is None:
            return [*self.shown, *self.details] if asked.full else self.shown
        return [self._find(asked.by, [*self.shown, *self.details, *self.tables])]

    def notes_for(self, asked: Asked, grids: Sequence[Grid]) -> list[Note]:
        """The notes below the given tables, with the footnotes if asked."""
        return [*self.notes(grids), *(self.footnotes(grids) if asked.full else ())]

    def _find(self, name: str | None, tables: Sequence[Table]) -> Table:
        for table in tables:
            if name in (None, table.name):
                return table
        if not self.tables:
            raise SpecError("this result has no table; take it as text, HTML or JSON")
        raise SpecError(f"there is no table {name!r}{near(str(name), (table.name for table in self.tables))}")


def shown_in(document: Document, asked: Asked) -> list[Grid]:
    """The tables for people, with no limit to their width."""
    return [table.grid(table.for_people(asked)) for table in document.for_people(asked)]


def fitted_in(document: Document, asked: Asked, width: int | None) -> tuple[list[Grid], list[str]]:
    """The tables for people with the columns that fit into the width, and the heads of the hidden ones."""
    grids: list[Grid] = []
    left_out: dict[str, None] = {}
    for table in document.for_people(asked):
        chosen = table.for_people(asked)
        grid = table.grid(chosen)
        kept = that_fit(grid, width, asked.columns is not None and not table.is_summary)
        if len(kept) < len(chosen):
            left_out |= {c.header: None for i, c in enumerate(chosen) if i not in kept}
            # A line may have been there only for a column that is hidden now.
            grid = table.grid([chosen[i] for i in kept])
        grids.append(grid)
    return grids, list(left_out)


def folded_in(document: Document, asked: Asked) -> tuple[list[Grid], Sequence[Note]]:
    """The details and footnotes that markdown and HTML fold away; none where they are shown."""
    if asked.full or not document.folded:
        return [], ()
    grids = [table.grid(table.for_people(asked)) for table in document.details]
    return grids, document.footnotes(grids)


def find(name: str, columns: Sequence[Column[RowT]]) -> Column[RowT]:
    """The column of the given name; raises SpecError, with close names, where there is none."""
    for column in columns:
        if column.name == name:
            return column
    raise SpecError(f"there is no column {name!r}{near(name, (c.name for c in columns))}")


def choose(
    names: Iterable[str] | None, columns: Sequence[Column[RowT]], default: Iterable[str]
) -> list[Column[RowT]]:
    """The named columns in order, each once; those of ``default`` where ``names`` is None."""
    wanted = list(dict.fromkeys(default if names is None else names))
    if not wanted:
        raise SpecError("columns is empty; name at least one, or leave it out")
    return [find(name, columns) for name in wanted]


def ordered(
    rows: Sequence[RowT], columns: Sequence[Column[RowT]], asked: Asked, by: str, cut: bool = True
) -> list[RowT]:
    """The rows sorted and cut off as asked; as they come where neither was asked.

    Args:
        rows: the rows.
        columns: among them the one to sort by; numbers go from the largest, text from A to Z, None is last.
        asked: with ``sort`` and ``top``.
        by: the column to sort by where only ``top`` is asked for.
        cut: whether ``top`` cuts rows off.
    """
    if not asked.is_flat:
        return list(rows)
    column = find(asked.sort or by, columns)
    known = [row for row in rows if column.get(row) is not None]
    unknown = [row for row in rows if column.get(row) is None]
    reverse = column.dtype not in ("str", "object")
    size: Callable[[RowT], Any] = column.get  # the values of a column can be compared
    return (sorted(known, key=size, reverse=reverse) + unknown)[: asked.top if cut else None]


def at_least(name: str, value: int | str | None, least: int) -> None:
    """Raises SpecError unless the option ``name`` is None or a whole number of at least ``least``."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise SpecError(f"{name} is {value!r}; it takes a whole number of at least {least}, or None")
