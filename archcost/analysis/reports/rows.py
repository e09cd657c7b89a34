"""The rows of a report: modules, layers or operations, sorted and cut off; sums of several modules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from archcost.analysis.reports.columns import MODULE_COLUMNS, Row
from archcost.analysis.reports.operation_columns import OPERATION_COLUMNS
from archcost.analysis.traced import TracedModel
from archcost.cost.costs import ModuleCost
from archcost.report.document import Asked, ordered
from archcost.report.values import Cell

__all__ = ["KINDS", "Ledger", "rows_of"]

_FIELDS = tuple(f.name for f in fields(ModuleCost))
_ADDED = (*(c.name for c in MODULE_COLUMNS if c.additive and c.name in _FIELDS), "calls")


class Ledger:
    """The modules of an Analysis as rows, with their children and the counts that are lower bounds."""

    def __init__(self, analysis: TracedModel) -> None:
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
        """The row of a module."""
        return Row(cost, self.analysis, cost.name in self.macs_open, cost.name in self.ops_open)

    def own(self, cost: ModuleCost) -> Row:
        """The row of the operations, parameters and buffers that belong to a module and not to a child."""
        rest = {name: _less(cost, self.children[cost.name], name) for name in _ADDED}
        rest["peak_memory_bytes"] = self._own_peaks.get(cost.name, 0)
        mine = _plain(cost, output_shape=None, details="", **rest)
        macs_open = cost.name in self.macs_open_here
        return Row(mine, self.analysis, macs_open, cost.name in self.ops_open_here, "own")

    def sum(self, rows: Sequence[Row], alike: bool = False) -> Row:
        """The sum of several modules as a single row; ``alike`` where they differ only in their names."""
        added = {name: _plus([getattr(row.cost, name) for row in rows]) for name in _ADDED}
        added["peak_memory_bytes"] = max(row.module.peak_memory_bytes for row in rows)
        cost = _plain(rows[-1].module, tied=(), details="", **added)
        macs_open, ops_open = any(r.macs_open for r in rows), any(r.other_ops_open for r in rows)
        return Row(cost, self.analysis, macs_open, ops_open, "fold" if alike else "sum")

    def frontier(self, depth: int | None) -> list[Row]:
        """Rows that add up to the total: layers, or modules at ``depth``, and operations outside of them."""
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


def _plain(cost: ModuleCost, **changes: Cell) -> ModuleCost:
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


def rows_of(analysis: TracedModel, by: str, asked: Asked) -> list[Row]:
    """The rows of a list: modules, layers or operations, sorted and cut off as asked."""
    depth = asked.depth_for(None)
    if by == "operations":
        rows = [
            Row(cost, analysis, cost.macs is None, cost.reason is not None)
            for cost in analysis.operations
            if depth is None or _level(cost.module) <= depth
        ]
        return ordered(rows, OPERATION_COLUMNS, asked, "macs")
    ledger = Ledger(analysis)
    costs = analysis.layers if by == "layers" else analysis.modules
    rows = [ledger.row(cost) for cost in costs if depth is None or cost.level <= depth]
    return ordered(rows, MODULE_COLUMNS, asked, "macs")


def _level(name: str) -> int:
    return name.count(".") + 1 if name else 0
