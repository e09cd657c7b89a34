"""Changes of modules as rows: their columns, their sums by module and by runs alike, their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

from archcost.analysis.changes import ADDED_UP, Change
from archcost.analysis.reports.columns import Row
from archcost.analysis.reports.pairs import MEASURES, Pair, measures
from archcost.analysis.reports.rows import Ledger
from archcost.report.columns import words, yes
from archcost.report.document import Column
from archcost.report.units import count_text, percent_text

__all__ = ["COLUMNS", "MOST", "change_percent", "differences", "folded", "for_people", "summed", "weight"]

MOST = 40
"""The rows for people; those beyond are summed in one."""
# Up to this number every edit has a row of its own.
_EACH = 20


def _percent(name: str, change: Change) -> float | None:
    """The difference in per cent of the model's total in a, so that rows add up to the change in total."""
    difference = differences[name].get(change)
    side = change.a or change.b
    whole = getattr(change.whole_a, name) if side is not None else None
    return 100 * difference / whole if whole and difference is not None else None


def change_percent(value: float) -> str:
    """A change in per cent: ``+12.7 %``."""
    return f"{'+' if value > 0 else '-'}{percent_text(abs(value))} %" if value else "0"


def _of_measure(name: str) -> list[Column]:
    """The columns of a measure: those of a Comparison, with the difference first for people, and per cent."""
    measure = MEASURES[name]
    a, b, difference, ratio = measures(measure)
    difference = replace(difference, header=measure.header, keep=measure.keep + 1)
    percent = Column(
        f"{name}_percent", "of all", f"{measure.meaning}; difference in per cent of the model's total in a",
        partial(_percent, name), unit="%", show=change_percent, dtype="Float64", missing="-", keep=measure.keep,
    )  # fmt: skip
    return [a, b, difference, ratio, percent]


COLUMNS: tuple[Column, ...] = (
    words("name", "Module", "Name in named_modules() of b; of a where it was removed"),
    words("change", "Change", "added, removed, replaced, changed, resized, moved or renamed",
          lambda row: row.kind, keep=98),
    words("why", "", "The change in words", missing="", keep=40),
    words("name_a", "Name in a", "Name in a; empty where it was added", missing=""),
    words("name_b", "Name in b", "Name in b; empty where it was removed", missing=""),
    words("type_a", "Type in a", "Class of the module in a", lambda row: row.type_of("a"), missing=""),
    words("type_b", "Type in b", "Class of the module in b", lambda row: row.type_of("b"), missing=""),
    Column("modules", "Modules", "Number of modules in the row", lambda row: row.modules, show=count_text),
    yes("own", "Own", "Whether the row is of what a module runs itself, without its children"),
    *(column for name in ADDED_UP for column in _of_measure(name)),
)  # fmt: skip
"""The columns of a Difference: names and words, then five for each measure."""

differences = {name: next(c for c in COLUMNS if c.name == f"{name}_difference") for name in ADDED_UP}
"""The column of the difference of each measure."""


def weight(change: Pair, whole: Pair) -> tuple[float, str]:
    """How much of the model a change is, by the measure in which it is most, and that measure."""
    found = []
    for name in ADDED_UP:
        value = differences[name].get(change)
        totals = [getattr(row.cost, name) or 0 for row in (whole.a, whole.b) if row is not None]
        found.append((float("inf") if value is None else abs(value) / max(*totals, 1), name))
    known = [one for one in found if one[0] != float("inf")]
    return max(known or found, key=lambda one: one[0])


def summed(changes: Sequence[Change], name: str, kind: str | None = None, why: str | None = None) -> Change:
    """Several changes as one row."""
    if len(changes) == 1:
        return changes[0]
    kinds = Counter(change.kind for change in changes)
    same = {change.why for change in changes}
    sides: dict[str, Row | None] = {}
    for side in ("a", "b"):
        rows = [row for change in changes if (row := getattr(change, side)) is not None]
        sides[side] = Ledger(rows[0].analysis).sum(rows) if rows else None
    mixed = ", ".join(f"{n} {one}" for one, n in kinds.items())
    return replace(
        changes[0],
        name=name,
        **sides,
        kind=(next(iter(kinds)) if len(kinds) == 1 else mixed) if kind is None else kind,
        why=(same.pop() if len(same) == 1 else "") if why is None else why,
        modules=sum(change.modules for change in changes),
        own=False,
        same_unknown=all(change.same_unknown for change in changes),
        parts=sum(change.parts for change in changes),
    )


def folded(changes: Iterable[Change], depth: int) -> list[Change]:
    """The changes summed by the module at ``depth`` that they are in; those above stay as they are."""
    groups: dict[tuple[str, bool], list[Change]] = {}
    for change in changes:
        parts = change.name.split(".") if change.name else []
        inside = len(parts) > depth
        groups.setdefault((".".join(parts[:depth]), inside or not change.own), []).append(change)
    return [summed(found, name) for (name, _), found in groups.items()]
