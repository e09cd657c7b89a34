"""Which rows a report has: modules, layers or operations, chosen, sorted and cut; and sums of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from archcost.cost.costs import ModuleCost
from archcost.errors import SpecError
from archcost.report.columns import (
    DEFAULT_MODULE_COLUMNS,
    DEFAULT_OPERATION_COLUMNS,
    MODULE_COLUMNS,
    OPERATION_COLUMNS,
    Column,
    Row,
    find,
    near,
)

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis

__all__ = ["Ledger", "at_least", "columns_of", "ordered", "select"]

_FIELDS = tuple(f.name for f in fields(ModuleCost))
_ADDED = (*(c.name for c in MODULE_COLUMNS if c.additive and c.name in _FIELDS), "calls")


class Ledger:
    """The modules of one Analysis as rows, with who holds whom and which counts are lower bounds."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.children: dict[str, list[ModuleCost]] = {row.name: [] for row in analysis.modules}
        for row in analysis.modules[1:]:
            self.children[row.name.rpartition(".")[0]].append(row)
        self.macs_open_here = {u.module for u in analysis.uncounted if u.macs_unknown}
        self.ops_open_here = {u.module for u in analysis.uncounted}
        self.macs_open = _with_parents(self.macs_open_here)
        self.ops_open = _with_parents(self.ops_open_here)
        self._own_peaks: dict[str, int] = {}
        for op in analysis.operations:
            self._own_peaks[op.module] = max(self._own_peaks.get(op.module, 0), op.live_bytes)

    def row(self, cost: ModuleCost) -> Row:
        return Row(cost, self.analysis, cost.name in self.macs_open, cost.name in self.ops_open)

    def own(self, cost: ModuleCost) -> Row:
        """What a module costs beyond its children: its own operations, parameters and buffers."""
        rest = {name: _less(cost, self.children[cost.name], name) for name in _ADDED}
        rest["peak_memory_bytes"] = self._own_peaks.get(cost.name, 0)
        mine = _plain(cost, output_shape=None, details="", **rest)
        macs_open = cost.name in self.macs_open_here
        return Row(mine, self.analysis, macs_open, cost.name in self.ops_open_here, "own")

    def sum(self, rows: Sequence[Row], alike: bool = False) -> Row:
        """Several modules as one row; ``alike`` where they are the same but for their names."""
        added = {name: _plus([getattr(row.cost, name) for row in rows]) for name in _ADDED}
        added["peak_memory_bytes"] = max(row.cost.peak_memory_bytes for row in rows)
        cost = _plain(rows[-1].cost, tied=(), details="", **added)
        macs_open, ops_open = any(r.macs_open for r in rows), any(r.other_ops_open for r in rows)
        return Row(cost, self.analysis, macs_open, ops_open, "fold" if alike else "sum")

    def frontier(self, depth: int | None) -> list[Row]:
        """Rows that add up to the total: the layers (or what stands at ``depth``), and what is in none."""
        rows = []
        for cost in self.analysis.modules:
            if depth is not None and cost.level > depth:
                continue
            if not self.children[cost.name] or cost.level == depth:
                rows.append(self.row(cost))
            else:
                own = self.own(cost)
                if any(getattr(own.cost, name) for name in _ADDED if name != "calls"):
                    rows.append(own)
        return rows


def _with_parents(names: set[str]) -> set[str]:
    found = set()
    for name in names:
        while name and name not in found:
            found.add(name)
            name = name.rpartition(".")[0]
        found.add("")
    return found


def _plain(cost: ModuleCost, **changes: Any) -> ModuleCost:
    values = {name: getattr(cost, name) for name in _FIELDS}
    return ModuleCost(**{**values, **changes})


def _plus(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if any(v is None for v in known) else sum(v for v in known if v is not None)


def _less(cost: ModuleCost, children: Sequence[ModuleCost], name: str) -> int | None:
    whole: int | None = getattr(cost, name)
    parts = _plus(getattr(child, name) for child in children)
    return None if whole is None or parts is None else whole - parts


KINDS = ("modules", "layers", "operations")


def columns_of(by: str) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """All the columns of a kind of row, and those shown to people unasked."""
    if by not in KINDS:
        raise SpecError(f"by is {by!r}{near(by, KINDS)}")
    if by == "operations":
        return OPERATION_COLUMNS, DEFAULT_OPERATION_COLUMNS
    return MODULE_COLUMNS, DEFAULT_MODULE_COLUMNS


def select(
    analysis: Analysis,
    by: str = "modules",
    depth: int | None = None,
    sort: str | None = None,
    top: int | None = None,
) -> list[Row]:
    """The rows of a flat report. ``depth`` keeps levels up to it, 0 is the model alone."""
    columns, _ = columns_of(by)
    at_least("depth", depth, 0)
    at_least("top", top, 1)
    ledger = Ledger(analysis)
    if by == "operations":
        rows = [
            Row(cost, analysis, cost.macs is None, cost.reason is not None)
            for cost in analysis.operations
            if depth is None or _level(cost.module) <= depth
        ]
    else:
        costs = analysis.layers if by == "layers" else analysis.modules
        rows = [ledger.row(cost) for cost in costs if depth is None or cost.level <= depth]
    return ordered(rows, columns, sort, top)


def _level(name: str) -> int:
    return name.count(".") + 1 if name else 0


def ordered(rows: list[Row], columns: Sequence[Column], sort: str | None, top: int | None) -> list[Row]:
    """The rows by a column, the largest numbers first and unknowns last; ``top`` sorts by MACs unasked."""
    if sort is not None or top is not None:
        column = find(sort or "macs", columns)
        known = [row for row in rows if column.get(row) is not None]
        unknown = [row for row in rows if column.get(row) is None]
        rows = sorted(known, key=column.get, reverse=column.dtype not in ("str", "object")) + unknown
    return rows if top is None else rows[:top]


def at_least(name: str, value: Any, least: int) -> None:
    """Raises SpecError unless the option is None or a whole number of at least ``least``."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise SpecError(f"{name} is {value!r}; it takes a whole number of at least {least}, or None")
