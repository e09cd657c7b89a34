"""Two Analyses aligned by module name: the rows and columns of a Comparison."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from archcost.analysis.columns import MODULE_COLUMNS, Column, Row, near
from archcost.analysis.rows import Ledger, at_least
from archcost.cost.costs import ModuleCost
from archcost.errors import SpecError

if TYPE_CHECKING:
    from archcost.analysis.comparison import Comparison

__all__ = ["DEFAULT_MEASURES", "Measure", "Pair", "measures", "ordered_pairs", "pairs"]

DEFAULT_MEASURES = ("params", "macs", "other_ops", "activation_bytes", "peak_memory_bytes")
_MEASURES = tuple(c for c in MODULE_COLUMNS if c.is_number and c.name != "level")


@dataclass(frozen=True, slots=True)
class Pair:
    """One module name in both models; a side is None where that model has no such module."""

    name: str
    a: Row | None
    b: Row | None

    @property
    def level(self) -> int:
        return self.name.count(".") + 1 if self.name else 0

    @property
    def only_in(self) -> str | None:
        return "a" if self.b is None else "b" if self.a is None else None

    def type_of(self, side: str) -> str | None:
        row: Row | None = getattr(self, side)
        return None if row is None else row.module.type_name


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of the module table, on both sides, with the change from a to b."""

    column: Column

    @property
    def name(self) -> str:
        return self.column.name

    def value(self, pair: Pair, side: str) -> Any:
        row: Row | None = getattr(pair, side)
        return None if row is None else self.column.get(row)

    def text(self, pair: Pair, side: str) -> str:
        """For people: empty where that model has no such module, ``?`` where the value is not known."""
        row: Row | None = getattr(pair, side)
        return "" if row is None else self.column.text(row)

    def is_open(self, pair: Pair) -> bool:
        """A side is only a lower bound: the change is not known then."""
        return any(row is not None and self.column.lower_bound(row) for row in (pair.a, pair.b))

    def difference(self, pair: Pair) -> Any:
        """b less a; a module that is not there costs nothing, so that differences add up."""
        a, b = (0 if getattr(pair, s) is None else self.value(pair, s) for s in "ab")
        return None if a is None or b is None or self.is_open(pair) else b - a

    def ratio(self, pair: Pair) -> float | None:
        """b / a; None where there is no a, or nothing to divide by."""
        a, b = self.value(pair, "a"), self.value(pair, "b")
        return b / a if a and b is not None and not self.is_open(pair) else None


def measures(names: Iterable[str] | None, default: Iterable[str] | None = None) -> list[Measure]:
    """The measures of that name; all of them, or the default, where none is named."""
    known = {column.name: column for column in _MEASURES}
    if names is None:
        return [Measure(known[name]) for name in (default or known)]
    chosen = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise SpecError(f"nothing to compare is called {name!r}{near(name, known)}")
    if not chosen:
        raise SpecError("columns is empty; name at least one, or leave it out")
    return [Measure(known[name]) for name in chosen]


def pairs(comparison: Comparison, depth: int | None = None) -> list[Pair]:
    """Every module of either, parents first, those of b alone beside their neighbours in b."""
    at_least("depth", depth, 0)
    sides = [Ledger(comparison.a), Ledger(comparison.b)]
    found: list[Pair] = []
    stack = [""]
    while stack:
        name = stack.pop()
        a, b = (_row(ledger, name) for ledger in sides)
        pair = Pair(name, a, b)
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


def ordered_pairs(found: list[Pair], sort: str | None, top: int | None) -> list[Pair]:
    """By a column of the comparison such as ``macs_difference``, the largest change first."""
    at_least("top", top, 1)
    if sort is None and top is None:
        return found
    name = sort or "macs_difference"
    if name == "name":
        return sorted(found, key=lambda pair: pair.name)[:top]
    keys: dict[str, Any] = {}
    for measure in measures(None):
        keys[f"{measure.name}_a"] = lambda pair, m=measure: m.value(pair, "a")
        keys[f"{measure.name}_b"] = lambda pair, m=measure: m.value(pair, "b")
        keys[f"{measure.name}_difference"] = lambda pair, m=measure: _size(m.difference(pair))
        keys[f"{measure.name}_ratio"] = lambda pair, m=measure: m.ratio(pair)
    if name not in keys:
        raise SpecError(f"there is no column {name!r} to sort by{near(name, ['name', *keys])}")
    key = keys[name]
    known = [pair for pair in found if key(pair) is not None]
    unknown = [pair for pair in found if key(pair) is None]
    return (sorted(known, key=key, reverse=True) + unknown)[:top]


def _size(value: Any) -> Any:
    return None if value is None else abs(value)
