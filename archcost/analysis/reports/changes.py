"""Changes of modules as rows: their columns, their sums by module and by runs alike, their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from math import inf
from typing import Any

from archcost.analysis.changes import ADDED_UP, Change
from archcost.analysis.reports.columns import Row
from archcost.analysis.reports.pairs import MEASURES, measures
from archcost.analysis.reports.rows import Ledger
from archcost.cost.costs import ModuleCost
from archcost.report.columns import words, yes
from archcost.report.document import Column, Depth
from archcost.report.units import count_text, percent_text

__all__ = ["COLUMNS", "MOST", "change_percent", "differences", "folded", "for_people", "summed", "weight"]

MOST = 40
"""The rows for people; those beyond are summed in one."""
# Up to this number every edit has a row of its own.
_EACH = 20


def _percent(name: str, change: Change) -> float | None:
    """The difference in per cent of the model's total in a, so that rows add up to the change in total."""
    difference, whole = differences[name].number(change), getattr(change.before, name)
    return 100 * difference / whole if whole and difference is not None else None


def _built_at(change: Change) -> str | None:
    return None if change.built_at is None else str(change.built_at)


def change_percent(value: float) -> str:
    """A change in per cent: ``+12.7 %``."""
    return f"{'+' if value > 0 else '-'}{percent_text(abs(value))} %" if value else "0"


def _of_measure(name: str) -> list[Column[Any]]:
    """The columns of a measure: those of a Comparison, with the difference first for people, and per cent."""
    measure = MEASURES[name]
    a, b, difference, ratio = measures(measure)
    difference = replace(difference, header=measure.header, keep=measure.keep + 1)
    percent = Column(
        f"{name}_percent", "of all", f"{measure.meaning}; difference in per cent of the model's total in a",
        partial(_percent, name), unit="%", show=change_percent, dtype="Float64", missing="-",
        keep=measure.keep,
    )  # fmt: skip
    return [a, b, difference, ratio, percent]


COLUMNS: tuple[Column[Any], ...] = (
    words("name", "Module", "Name in named_modules() of b; of a where it was removed"),
    words("change", "Change", "added, removed, replaced, changed, resized, moved or renamed",
          lambda row: row.kind, keep=98),
    words("why", "Why", "The change in words", missing="", keep=40),
    words("name_a", "Name in a", "Name in a; empty where it was added", missing=""),
    words("name_b", "Name in b", "Name in b; empty where it was removed", missing=""),
    words("type_a", "Type in a", "Class of the module in a", lambda row: row.type_of("a"), missing=""),
    words("type_b", "Type in b", "Class of the module in b", lambda row: row.type_of("b"), missing=""),
    Column("modules", "Modules", "Number of modules in the row", lambda row: row.modules, show=count_text),
    words("built_at", "Built at", "Line of code that built the module, in b unless it was removed",
          _built_at, missing="", keep=20),
    yes("own", "Own", "Whether the row is of what a module runs itself, without its children"),
    *(column for name in ADDED_UP for column in _of_measure(name)),
)  # fmt: skip
"""The columns of a Difference: names and words, then five for each measure."""

differences = {name: next(c for c in COLUMNS if c.name == f"{name}_difference") for name in ADDED_UP}
"""The column of the difference of each measure."""


def weight(change: Change, after: ModuleCost) -> tuple[float, str]:
    """The largest share that a change has of any measure of the model, and the measure to name.

    MACs and parameters are named even where another measure changed by up to four times as much.
    """
    found = {}
    for name in ("macs", *ADDED_UP):
        value = differences[name].number(change)
        most = max(getattr(change.before, name) or 0, getattr(after, name) or 0, 1)
        found[name] = inf if value is None else abs(value) / most
    most = max(found.values())
    return most, next(name for name, share in found.items() if share >= most / 4)


def for_people(changes: Sequence[Change], depth: Depth, after: ModuleCost) -> list[Change]:
    """The rows for people: runs of modules alike in one, edits before what follows from them, by weight.

    Args:
        changes: the changes, in order of definition.
        depth: levels of modules; with ``"auto"`` as many as give a table that can be read at a glance, at the
            cost of what was given other shapes first.
        after: the totals of the model in b.
    """
    edits, resized = ([c for c in changes if (c.kind == "resized") is which] for which in (False, True))
    if not isinstance(depth, str):
        rows = [*_runs(folded(edits, depth)), *_runs(folded(resized, depth))]
    else:
        levels = range(max((change.level for change in changes), default=0), 0, -1)
        rows = [*_runs(edits), *_runs(resized)]
        for level in levels:
            if len(rows) > _EACH:
                rows = [*_runs(edits), *_runs(folded(resized, level))]
        for level in levels:
            if len(rows) > _EACH:
                rows = [*_runs(folded(edits, level)), *folded(resized, 1)]
    return sorted(rows, key=lambda change: (change.kind == "resized", -weight(change, after)[0]))


def folded(changes: Sequence[Change], depth: int | None) -> list[Change]:
    """The changes summed by the module at ``depth`` that they are in; one alone there stays as it is."""
    if depth is None:
        return list(changes)
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        name = ".".join(change.name.split(".")[:depth])
        alone = change.kind if change.name == name and not change.own else ""
        groups.setdefault((name, alone), []).append(change)
    return [summed(found, name) for (name, _), found in groups.items()]


def summed(changes: Sequence[Change], name: str) -> Change:
    """Several changes as one row, under the name of the module that they are in."""
    if len(changes) == 1:
        return changes[0]
    sides: dict[str, Row] = {}
    for side in ("a", "b"):
        rows = [row for change in changes if (row := getattr(change, side)) is not None]
        if not rows:
            continue
        row = Ledger(rows[0].analysis).sum(rows)
        around = rows[0].analysis.costs.by_name.get(name)
        if around is not None:
            row = replace(row, cost=replace(row.module, name=name, type_name=around.type_name))
        sides[side] = row
    kinds = Counter(change.kind for change in changes)
    whys = Counter(change.why for change in changes if change.why).most_common()
    return replace(
        changes[0],
        name=name,
        a=sides.get("a"),
        b=sides.get("b"),
        kind=kinds.popitem()[0] if len(kinds) == 1 else ", ".join(f"{n} {kind}" for kind, n in kinds.items()),
        why=whys[0][0] + ", …" * (len(whys) > 1) if whys else "",
        modules=sum(change.modules for change in changes),
        own=False,
        same_unknown=all(change.same_unknown for change in changes),
    )


def _runs(changes: Sequence[Change]) -> list[Change]:
    """The changes, with neighbours in a list that changed alike as one row."""
    found = []
    for _, run in groupby(changes, _likeness):
        rows = list(run)
        name = rows[0].name if len(rows) == 1 else f"{rows[0].name} to {rows[-1].name}"
        found.append(summed(rows, name))
    return found


def _likeness(change: Change) -> tuple[object, ...]:
    above, _, key = change.name.rpartition(".")
    costs = [row and [getattr(row.cost, name) for name in ADDED_UP] for row in (change.a, change.b)]
    place = above if key.isdigit() else change.name
    return place, change.kind, change.why, change.type_name, change.own, costs
