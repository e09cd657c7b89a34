"""A MAC budget shared out among layers: the choice of proposals with the least squared errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from archcost.errors import InputError, RewriteError
from archcost.rewriting.proposal import Proposal, best_of, overlap

__all__ = ["within_budget"]

_HALVINGS = 60


def within_budget(proposals: Iterable[Proposal], budget: float) -> tuple[Proposal, ...]:
    """At most one proposal for each layer, so that all layers together have ``budget`` times the old MACs.

    Exact proposals that save MACs are always taken; approximations of several layers and proposals with a
    note never are. The rest is a Lagrangian relaxation (H. Everett, "Generalized Lagrange Multiplier Method
    for Solving Problems of Optimum Allocation of Resources", Operations Research 11, 1963): for a price p of
    a MAC each layer takes the proposal with the least ``error^2 + p * macs`` (keeping the layer has error
    0), and p is the lowest price that keeps the budget.

    Args:
        proposals: of one model, with their errors.
        budget: share of the MACs of the layers that have proposals, above 0 and at most 1.

    Returns:
        The chosen proposals, the exact ones first.

    Raises:
        InputError: the budget is not above 0 and at most 1.
        RewriteError: even the cheapest choice is above the budget, or an error is not known.
    """
    if not isinstance(budget, (int, float)) or isinstance(budget, bool) or not 0 < budget <= 1:
        raise InputError(f"a budget is a share of the MACs, above 0 and at most 1; got {budget!r}")
    usable = [one for one in proposals if one.recommended and one.after.macs < one.before.macs]
    # Exact proposals come first: the layers that they replace get no other.
    free = best_of(one for one in usable if one.exact)
    layers: dict[str, list[Proposal]] = defaultdict(list)
    for one in usable:
        if one.exact or one.replacement.note or len(one.replacement.chains) > 1:
            continue
        if one.error is None:
            raise RewriteError(
                f"{one.name!r}: the error of {one.rule} is not known, and a budget needs it: propose with "
                f"errors=True"
            )
        if not any(overlap(one.name, name) for done in free for name in done.replacement.chains):
            layers[one.name].append(one)
    options = list(layers.values())
    spent = sum(one.after.macs for one in free)
    total = sum(one.before.macs for one in free) + sum(one[0].before.macs for one in options)
    least = spent + sum(min(p.after.macs for p in one) for one in options)
    if least > budget * total:
        raise RewriteError(
            f"the cheapest choice has {least / total:.2f} times the MACs of these layers, above the budget "
            f"of "
            f"{budget}: give a larger budget or more rules"
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
    """The proposal with the least error^2 + price * MACs for each layer; None where the layer is kept."""

    def cost(one: Proposal) -> float:
        return (one.error or 0.0) ** 2 + price * one.after.macs / total

    best = [min(layer, key=cost) for layer in options]
    return [one if cost(one) < price * one.before.macs / total else None for one in best]


def _filled(
    taken: list[Proposal | None], options: Sequence[list[Proposal]], left: float
) -> list[Proposal | None]:
    """Spend the rest of the budget greedily, on the largest decrease of the squared error for a MAC first."""

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
