"""The contents of a page as data: facts, points, pictures. A result fills them, the page's script draws them.

Each picture has a ``kind``, by which the script chooses how to draw it. Every text is shown as text. Numbers
are plain values with a unit: ``bytes``, ``ms``, ``MACs``, ``pixels``, or empty for a count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from archcost.report.values import Json

__all__ = [
    "THIS_FILE",
    *("Along", "Choices", "Dots", "Fact", "Flow", "Measure", "Pairs"),
    *("Picture", "Point", "Span", "Tiles"),
]

THIS_FILE = "@file@"
"""Stands in a command for the file of the page."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A number at the top of the page: its name, its text, and a remark below."""

    name: str
    text: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A line of a list at the top: a head, a text, and a share from 0 to 1 that is drawn as a bar.

    Lines with a share are numbered; the others stand below them, without numbers.
    """

    head: str
    text: str
    share: float | None = None
    command: str = ""
    """What to type for it; `THIS_FILE` in it becomes the name of the page's file."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Values under a name, one for each item of a picture; None where not known."""

    name: str
    unit: str
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture: its title, and what it shows and how it is read in a sentence."""

    kind: ClassVar[str]
    title: str
    about: str

    def record(self) -> dict[str, Json]:
        """The picture as plain values, for the script."""
        return {"kind": self.kind, **{one.name: _plain(getattr(self, one.name)) for one in fields(self)}}


@dataclass(frozen=True, kw_only=True)
class Tiles(Picture):
    """An icicle of a tree: each tile is as wide as its share of the measure that the reader chooses."""

    kind: ClassVar[str] = "tiles"
    names: Sequence[str]
    """The full name of each node, the root first and parents before their children."""
    parents: Sequence[int]
    """The index of each node's parent; -1 for the root."""
    types: Sequence[str]
    details: Sequence[str]
    """More about each node: arguments, line of source."""
    alike: Sequence[int]
    """A number for each node; neighbours with the same number are equal, and collapse into one tile."""
    measures: Sequence[Measure]


@dataclass(frozen=True, slots=True)
class Span:
    """A bar below a curve, from item ``first`` to item ``last``."""

    name: str
    amount: float
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Along(Picture):
    """Values along an order, as steps: by layer, or by operation."""

    kind: ClassVar[str] = "along"
    items: Sequence[str]
    """The name of each item."""
    measures: Sequence[Measure]
    marks: Sequence[int] = ()
    """The items at the peak, the one that the text and the spans are about first."""
    mark_text: str = ""
    level: float | None = None
    """A value at which a line across is drawn, such as the size of the input."""
    level_text: str = ""
    spans: Sequence[Span] = ()
    spans_title: str = ""
    spans_unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Dots(Picture):
    """Dots on logarithmic axes: a roofline, with slopes and a ceiling; or curves, a line for each group."""

    kind: ClassVar[str] = "dots"
    names: Sequence[str]
    groups: Sequence[str]
    """The name of the group of each dot, which chooses its colour."""
    x: Sequence[float]
    y: Sequence[float]
    texts: Sequence[str]
    """More about each dot."""
    x_label: str
    y_label: str
    joined: bool = False
    """Whether a line joins the dots of a group."""
    slope: float | None = None
    """y over x of the slope."""
    ceiling: float | None = None
    steeper: Sequence[float] = ()
    """y over x of further slopes, drawn thin."""


@dataclass(frozen=True, kw_only=True)
class Pairs(Picture):
    """Values before and after, side by side; or of several things that are compared, for a chosen item."""

    kind: ClassVar[str] = "pairs"
    sides: tuple[str, str]
    names: Sequence[str]
    remarks: Sequence[str]
    before: Sequence[Measure]
    after: Sequence[Measure]


@dataclass(frozen=True, kw_only=True)
class Choices(Picture):
    """Bars for the things compared under an item that the reader chooses, such as the paths of a layer."""

    kind: ClassVar[str] = "choices"
    label: str
    """The name of the choice: ``Layer``."""
    items: Sequence[str]
    groups: Sequence[int]
    """For each item the index of its bars; items may share them."""
    bars: Sequence[Sequence[tuple[str, Sequence[float | None], str]]]
    """Lists of bars: name, a value under each measure, remark."""
    measures: Sequence[tuple[str, str]]
    """Name and unit of each measure."""
    kept: Sequence[str] = ()
    """Names of the bars that are shown even where they are not among the smallest."""


@dataclass(frozen=True, kw_only=True)
class Flow(Picture):
    """The data flow of a module that the reader chooses: operations in order, with what feeds each."""

    kind: ClassVar[str] = "flow"
    operations: Sequence[str]
    modules: Sequence[int]
    """For each operation the index of the module that ran it."""
    shapes: Sequence[str]
    fed_by: Sequence[Sequence[int]]
    views: Sequence[int]
    """1 for an operation that only views a tensor, such as a transpose; 0 for the others."""
    names: Sequence[str]
    """The names of the modules."""
    first: Sequence[int]
    """The first operation of each module."""
    end: Sequence[int]
    """The operation after each module's last."""


def _plain(value: object) -> Json:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    assert value is None or isinstance(value, (str, int, float))
    return value
