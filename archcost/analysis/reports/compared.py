"""The pages of a Comparison and a Difference: both totals, and the modules before and after."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

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
    names = [visible(row.name) or "(the model)" for row in rows]
    drawn = Pairs(
        title="What changed, module by module?",
        about="The largest change first; modules in which nothing changed are left out.",
        sides=(f"a: {visible(a.name)}", f"b: {visible(b.name)}"),
        names=names,
        remarks=[_remark(row) for row in rows],
        before=[Measure(name, unit, [_value(row.a, at) for row in rows]) for name, at, unit in _MEASURES],
        after=[Measure(name, unit, [_value(row.b, at) for row in rows]) for name, at, unit in _MEASURES],
    )
    return Page(
        warnings=warnings,
        facts=total_facts(a, b),
        costly=_largest(a, rows, names),
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


def _largest(a: TracedModel, rows: Sequence[RowPair], names: Sequence[str]) -> list[Point]:
    """The modules whose MACs changed most, those that changed alike together."""
    alike: dict[tuple[int, str], list[str]] = defaultdict(list)
    for row, name in zip(rows, names, strict=True):
        change = (_value(row.b, "macs") or 0) - (_value(row.a, "macs") or 0)
        if change:
            alike[change, _remark(row)].append(name)
    found = []
    for (change, why), same in sorted(alike.items(), key=lambda one: -abs(one[0][0]) * len(one[1]))[:_MOST]:
        whole = change * len(same)
        text = f"{'+' if change > 0 else '-'}{si_text(abs(whole))} MACs" + f": {why}" * bool(why)
        head = same[0] + f" and {len(same) - 1} like it" * (len(same) > 1)
        found.append(Point(head, text, min(abs(whole) / a.total.macs, 1) if a.total.macs else None))
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
