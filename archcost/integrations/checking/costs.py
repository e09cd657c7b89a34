"""Remarks AC3xx: budgets that are broken, and operations that could not be counted."""

from __future__ import annotations

from collections.abc import Iterator

from archcost.analysis.budget import Breach
from archcost.integrations.checking.case import Case, Related, Remark

__all__ = ["costs"]


def costs(case: Case) -> Iterator[Remark]:
    """The remarks on budgets, then on operations whose MACs could not be counted."""
    for breach in case.table.budget.breaches(case.analysis):
        yield _broken(case, breach)
    for one in (one for one in case.analysis.uncounted if one.macs_unknown):
        what = case.type_name(one.module)
        yield Remark(
            "AC302", one.module, what, f"runs {one.op}, which could not be counted: {one.reason}", key=one.op
        )


def _broken(case: Case, breach: Breach) -> Remark:
    """On the line of the costliest layer, where the project has one, else on that of the limit."""
    limit = case.table.limits.get(breach.limit)
    lines = [(one, case.chain(one.name)[:1]) for one in breach.costliest]
    said: list[str] = []
    for one, chain in lines:
        more = f" and {one.others} more" if one.others else ""
        at = f" at {chain[0][0]}" if chain and said else ""  # the finding stands at the line of the first
        said.append(f"{one.name}{more} ({one.type_name}, {breach.show(one.value)}){at}")
    most = ", ".join(said)
    places = [(one, chain[0][0]) for one, chain in lines if chain]
    related = [] if limit is None else [Related(limit, f"{breach.limit} of {case.table.name}")]
    related += [Related(place, f"{one.name}: {breach.show(one.value)}") for one, place in places[1:]]
    return Remark(
        "AC301",
        "",
        f"{breach.limit}:",
        f"{breach.text}; most in {most}" if most else breach.text,
        f"the limit stands at {limit}" if limit is not None and places else "",
        key=breach.limit,
        place=places[0][1] if places else limit,
        related=tuple(related),
    )
