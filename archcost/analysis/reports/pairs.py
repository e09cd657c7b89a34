"""Two models aligned by module name: the rows of a Comparison, and its columns."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from archcost.analysis.reports.columns import MODULE_COLUMNS, Row
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.traced import TracedModel
from archcost.cost.costs import ModuleCost
from archcost.errors import SpecError
from archcost.report.columns import Look
from archcost.report.document import Column, Get
from archcost.report.text import near
from archcost.report.units import ratio_text
from archcost.report.values import Cell

__all__ = ["COLUMNS", "MEASURES", "RowPair", "expanded", "measures", "pairs"]

MEASURES = {c.name: c for c in MODULE_COLUMNS if c.is_number and c.name != "level"}
"""The columns of modules that can be compared, by name."""


@dataclass(frozen=True, slots=True)
class RowPair:
    """The rows of a module name in both models; None in a model without such a module."""

    name: str
    a: Row | None
    b: Row | None
    same_unknown: bool = False
    """Whether the same operations are not counted in both, so that the difference is exact."""

    @property
    def level(self) -> int:
        return self.name.count(".") + 1 if self.name else 0

    @property
    def only_in(self) -> str | None:
        return "a" if self.b is None else "b" if self.a is None else None

    def type_of(self, side: str) -> str | None:
        row: Row | None = getattr(self, side)
        return None if row is None else row.module.type_name


def _difference(measure: Column[Row], pair: RowPair) -> float | None:
    """The difference b - a; a missing module counts as 0, so that differences add up."""
    a, b = (0 if row is None else measure.number(row) for row in (pair.a, pair.b))
    return None if a is None or b is None or _is_open(measure, pair) else b - a


def _ratio(measure: Column[Row], pair: RowPair) -> float | None:
    """The ratio b / a; None where a is missing or 0."""
    a, b = (None if row is None else measure.number(row) for row in (pair.a, pair.b))
    return b / a if a and b is not None and not _is_bound(measure, pair) else None


def _is_open(measure: Column[Row], pair: RowPair) -> bool:
    """Whether a side is a lower bound, so that the change is unknown."""
    return not pair.same_unknown and _is_bound(measure, pair)


def _is_bound(measure: Column[Row], pair: RowPair) -> bool:
    return any(row is not None and measure.lower_bound(row) for row in (pair.a, pair.b))


def _change_text(measure: Column[Row], value: float) -> str:
    return "0" if value == 0 else ("+" if value > 0 else "-") + measure.show(abs(value))


@dataclass(frozen=True, slots=True)
class _SideColumn(Column[RowPair]):
    """The column of a measure in a or b; shown empty where that model has no such module."""

    side: str = "a"

    def text(self, row: RowPair) -> str:
        of_side: Row | None = getattr(row, self.side)
        return "" if of_side is None else MEASURES[self.group].text(of_side)


@dataclass(frozen=True, slots=True)
class _RatioColumn(Column[RowPair]):
    """The column of ratios: empty where a side is missing, ``-`` where a is 0, ``?`` where not known."""

    def text(self, row: RowPair) -> str:
        if row.only_in is not None:
            return ""
        ratio = self.number(row)
        if ratio is None:
            measure = MEASURES[self.group]
            return "?" if _difference(measure, row) is None or _is_bound(measure, row) else "-"
        return ratio_text(ratio)


def measures(measure: Column[Row]) -> tuple[Column[RowPair], ...]:
    """The four columns of a measure: ``macs_a``, ``macs_b``, ``macs_difference`` and ``macs_ratio``."""
    name, header, meaning = measure.name, measure.header, measure.meaning
    # A module may be missing on either side, so every column may have gaps.
    dtype = "Float64" if measure.dtype == "Float64" else "Int64"
    keep = measure.keep
    common: Look = {"unit": measure.unit, "show": measure.show, "dtype": dtype, "group": name, "keep": keep}

    def value(side: str, pair: RowPair) -> Cell:
        row: Row | None = getattr(pair, side)
        return None if row is None else measure.get(row)

    sides = (
        _SideColumn(f"{name}_{s}", f"{header} {s}", f"{meaning}; in {s}", partial(value, s), side=s, **common)
        for s in ("a", "b")
    )
    change: Look = {**common, "group": "", "show": partial(_change_text, measure), "keep": keep - 0.6}
    ratio: Look = {**common, "unit": "", "show": ratio_text, "dtype": "Float64", "keep": keep - 0.5}
    return (
        *sides,
        Column(f"{name}_difference", f"{header} b - a", f"{meaning}; difference b - a",
               partial(_difference, measure), **change),
        _RatioColumn(f"{name}_ratio", "b / a", f"{meaning}; ratio b / a", partial(_ratio, measure), **ratio),
    )  # fmt: skip


def _words(name: str, header: str, meaning: str, get: Get[RowPair]) -> Column[RowPair]:
    return Column(name, header, meaning, get, show=str, dtype="str", missing="")


COLUMNS: tuple[Column[RowPair], ...] = (
    _words("name", "Module", "Name in named_modules() of a or b", lambda pair: pair.name),
    _words("type_a", "Type a", "Class of the module in a", lambda pair: pair.type_of("a")),
    _words("type_b", "Type b", "Class of the module in b", lambda pair: pair.type_of("b")),
    _words(
        "only_in",
        "Only in",
        "The only model with the module, a or b; empty for both",
        lambda pair: pair.only_in,
    ),
    *(column for measure in MEASURES.values() for column in measures(measure)),
)
"""The columns of a Comparison: name and classes, then four for each measure."""


def expanded(
    names: Iterable[str],
    suffixes: Sequence[str],
    columns: Sequence[Column[Any]] = COLUMNS,
    compared: Collection[str] = MEASURES,
) -> list[str]:
    """Column names, with the name of a measure (``macs``) replaced by those of its columns.

    Raises:
        SpecError: a name is neither that of a column nor that of a measure.
    """
    known = {column.name for column in columns}
    found: list[str] = []
    for name in names:
        if name not in known and name not in compared:
            raise SpecError(f"nothing to compare is called {name!r}{near(name, (*compared, *known))}")
        found += [name] if name in known else [f"{name}_{suffix}" for suffix in suffixes]
    return found


def pairs(a: TracedModel, b: TracedModel, depth: int | None = None) -> list[RowPair]:
    """Every module of either, parents first, those of b alone beside their neighbours in b."""
    sides = [Ledger(a), Ledger(b)]
    found: list[RowPair] = []
    stack = [""]
    while stack:
        name = stack.pop()
        pair = RowPair(name, _row(sides[0], name), _row(sides[1], name))
        found.append(pair)
        if depth is None or pair.level < depth:
            children = [[cost.name for cost in ledger.children.get(name, ())] for ledger in sides]
            stack.extend(reversed(_merged(*children)))
    return found


def _row(ledger: Ledger, name: str) -> Row | None:
    cost: ModuleCost | None = ledger.analysis.costs.by_name.get(name)
    return None if cost is None else ledger.row(cost)


def _merged(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Both lists in one, each name once, in an order that keeps a's and puts b's own in their places."""
    if list(a) == list(b):
        return list(a)
    merged: dict[str, None] = {}
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    for _, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        merged.update(dict.fromkeys([*a[a_from:a_to], *b[b_from:b_to]]))
    return list(merged)
