"""The pages of a Comparison and a Difference: both totals, and the modules before and after."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from archcost.analysis.reports.columns import MODULE_COLUMNS, Row
from archcost.analysis.reports.pairs import RowPair
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.traced import TracedModel
from archcost.report.document import Listing, Page, find
from archcost.report.page.parts import Fact, Measure, Pairs, Point
from archcost.report.text import visible
from archcost.report.units import si_text

__all__ = ["page_of", "total_facts"]

_TOTALS = ("params", "macs", "peak_memory_bytes", "activation_bytes")
_MEASURES = (
    ("MACs", "macs", "MACs"),
    ("Parameters", "params", "parameters"),
    ("Activation memory", "activation_bytes", "bytes"),
)
_MOST = 3


def page_of(
    a: TracedModel,
    b: TracedModel,
    rows: Sequence[RowPair],
    warnings: Sequence[str],
    tables: Sequence[Listing],
) -> Page:
    """The page of two models.

    Args:
        a: the model before.
        b: the model after.
        rows: the modules that differ, none of them inside another, so that they add up.
        warnings: lines at the top, such as inputs that differ.
        tables: the tables of the page.
    """
    kinds = _alike(rows)
    drawn = Pairs(
        title="What changed, module by module?",
        about="Modules that changed alike together, the largest change first; others are left out.",
        sides=(f"a: {visible(a.name)}", f"b: {visible(b.name)}"),
        names=list(map(_names, kinds)),
        remarks=[_remark(same[0]) for same in kinds],
        before=[Measure(name, unit, [_sum(same, "a", at) for same in kinds]) for name, at, unit in _MEASURES],
        after=[Measure(name, unit, [_sum(same, "b", at) for same in kinds]) for name, at, unit in _MEASURES],
    )
    return Page(
        warnings=warnings,
        facts=total_facts(a, b),
        costly=_largest(a, b, kinds),
        costly_title="What changed most",
        pictures=[drawn] if rows else [],
        tables=tables,
    )


def total_facts(a: TracedModel, b: TracedModel) -> list[Fact]:
    """The totals of both models with their change."""
    sides = [Ledger(side).row(side.total) for side in (a, b)]
    found = []
    for column in (find(name, MODULE_COLUMNS) for name in _TOTALS):
        before, after = (column.number(row) for row in sides)
        is_open = any(column.lower_bound(row) for row in sides)
        change = "not known"
        if before and after is not None and not is_open:
            change = "no change" if before == after else f"{100 * (after - before) / before:+.3g} %"
        texts = [column.text(row) for row in sides]
        if column.name == "params":
            texts = [si_text(side.total.params) for side in (a, b)]
        found.append(Fact(column.header, " → ".join(texts), change))
    return found


def _alike(rows: Sequence[RowPair]) -> list[list[RowPair]]:
    """Modules that changed alike, in the same class of layers."""
    found: dict[Hashable, list[RowPair]] = defaultdict(list)
    for row in rows:
        values = tuple(_value(side, at) for _, at, _ in _MEASURES for side in (row.a, row.b))
        found[row.type_of("a"), row.type_of("b"), _remark(row), values].append(row)
    return list(found.values())


def _names(same: Sequence[RowPair]) -> str:
    name = visible(same[0].name) or "(the model)"
    return name + f" and {len(same) - 1} like it" * (len(same) > 1)


def _sum(same: Sequence[RowPair], side: str, name: str) -> int | None:
    """The values of modules together; None where the side has none of them."""
    known = [value for row in same if (value := _value(getattr(row, side), name)) is not None]
    return sum(known) if known else None


def _largest(a: TracedModel, b: TracedModel, kinds: Sequence[Sequence[RowPair]]) -> list[Point]:
    """The modules whose MACs changed most, alike ones together; bars are shares of the larger model."""
    whole = max(a.total.macs, b.total.macs)
    changes = [((_sum(same, "b", "macs") or 0) - (_sum(same, "a", "macs") or 0), same) for same in kinds]
    found = []
    for change, same in sorted(changes, key=lambda one: -abs(one[0]))[:_MOST]:
        if not change:
            continue
        why = _remark(same[0])
        text = f"{'+' if change > 0 else '-'}{si_text(abs(change))} MACs" + f": {why}" * bool(why)
        found.append(Point(_names(same), text, min(abs(change) / whole, 1) if whole else None))
    return found


def _value(row: Row | None, name: str) -> int | None:
    return None if row is None else int(getattr(row.cost, name))


def _remark(row: RowPair) -> str:
    why = visible(str(getattr(row, "why", "")))
    if why:
        return why
    before, after = row.type_of("a"), row.type_of("b")
    if before is None or after is None:
        return f"only in {row.only_in}: {visible(before or after or '')}"
    return "" if before == after else f"{visible(before)} -> {visible(after)}"
