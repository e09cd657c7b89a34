"""Budget: which proposal each layer gets, or none, where the MACs of all of them together are limited."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from archcost.errors import InputError, RewriteError
from archcost.rewriting.proposal import Proposal, best_of, overlap

__all__ = ["within_budget"]

_HALVINGS = 60


def within_budget(proposals: Iterable[Proposal], budget: float) -> tuple[Proposal, ...]:
    """Of each layer's proposals at most one, so that all together have ``budget`` times the old MACs.

    What is exact and saves is taken; what is an approximation of several layers, or has a note, is not.

    The sum of the squared errors is small: for a price p of a MAC, each layer takes what has the least
    ``error^2 + p * macs`` (staying as it is has no error); the price is the lowest that keeps the budget
    (H. Everett, "Generalized Lagrange Multiplier Method", 1963).

    Raises:
        InputError: the budget is no share.
        RewriteError: no choice of them is that cheap, or their errors are not known.
    """
    if not isinstance(budget, (int, float)) or isinstance(budget, bool) or not 0 < budget <= 1:
        raise InputError(f"a budget is a share of the MACs, above 0 and at most 1; got {budget!r}")
    usable = [one for one in proposals if one.recommended and one.after.macs < one.before.macs]
    # What loses nothing comes first, and what spans several layers leaves them nothing else to do.
    free = best_of(one for one in usable if one.exact)
    layers: dict[str, list[Proposal]] = defaultdict(list)
    for one in usable:
        if one.exact or one.replacement.note or len(one.replacement.chains) > 1:
            continue
        if one.error is None:
            raise RewriteError(f"{one.rule} of {one.name!r} has no error to choose by: ask for errors")
        if not any(overlap(one.name, name) for done in free for name in done.replacement.chains):
            layers[one.name].append(one)
    options = list(layers.values())
    spent = sum(one.after.macs for one in free)
    total = sum(one.before.macs for one in free) + sum(one[0].before.macs for one in options)
    least = spent + sum(min(p.after.macs for p in one) for one in options)
    if least > budget * total:
        raise RewriteError(
            f"the cheapest choice has {least / total:.2f} times the MACs of these layers, and {budget} is "
            f"asked for: more rules save more"
        )

    def dear(price: float) -> bool:
        # Summed as `least` is, so that the cheapest choice passes to the last bit.
        return spent + _macs(_taken(options, price, total), options) > budget * total

    low, high = 0.0, 1.0
    while dear(high):
        high *= 4
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if dear(middle):
            low = middle
        else:
            high = middle
    taken = _filled(_taken(options, high, total), options, budget * total - spent)
    return (*free, *(one for one in taken if one is not None))


def _taken(options: Sequence[list[Proposal]], price: float, total: int) -> list[Proposal | None]:
    """For each layer the least of error and cost at that price; None where it stays."""

    def cost(one: Proposal) -> float:
        return (one.error or 0.0) ** 2 + price * one.after.macs / total

    best = [min(layer, key=cost) for layer in options]
    return [one if cost(one) < price * one.before.macs / total else None for one in best]


def _filled(
    taken: list[Proposal | None], options: Sequence[list[Proposal]], left: float
) -> list[Proposal | None]:
    """The same, each step better that the rest of the budget allows: the one that mends most a MAC first."""

    def error(one: Proposal | None) -> float:
        return 0.0 if one is None else one.error or 0.0

    while True:
        rest = left - _macs(taken, options)
        steps = []
        for place, (now, layer) in enumerate(zip(taken, options, strict=True)):
            if now is None:
                continue
            for one in (*layer, None):
                more = (layer[0].before.macs if one is None else one.after.macs) - now.after.macs
                gain = error(now) ** 2 - error(one) ** 2
                if gain > 0 and more <= rest:
                    steps.append((gain / max(more, 1), place, one))
        if not steps:
            return taken
        _, place, one = max(steps, key=lambda step: step[0])
        taken[place] = one


def _macs(taken: Sequence[Proposal | None], options: Sequence[list[Proposal]]) -> int:
    pairs = zip(taken, options, strict=True)
    return sum(layer[0].before.macs if one is None else one.after.macs for one, layer in pairs)
