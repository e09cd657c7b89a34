"""Budget: which proposal each layer gets, or none, where the MACs of all of them together are limited."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from archcost.errors import RewriteError
from archcost.rewriting.proposal import Proposal, overlap

__all__ = ["within_budget"]

_HALVINGS = 60


def within_budget(proposals: Iterable[Proposal], budget: float) -> tuple[Proposal, ...]:
    """Of each layer's proposals at most one, so that all together have ``budget`` times the old MACs.

    The sum of the squared errors is small: for a price p of a MAC, each layer takes what has the least
    ``error^2 + p * macs`` (staying as it is has no error); the price is the lowest that keeps the budget
    (H. Everett, "Generalized Lagrange Multiplier Method", 1963).

    Raises:
        RewriteError: no choice of them is that cheap, or their errors are not known.
    """
    layers: dict[str, list[Proposal]] = defaultdict(list)
    for one in proposals:
        if one.recommended and not one.replacement.note and one.after.macs < one.before.macs:
            if one.error is None:
                raise RewriteError(f"{one.rule} of {one.name!r} has no error to choose by: ask for errors")
            layers[one.name].append(one)
    names = [name for name in layers if not any(o != name and overlap(o, name) for o in layers)]
    options = [layers[name] for name in names]
    total = sum(one[0].before.macs for one in options)
    least = sum(min(p.after.macs for p in one) for one in options)
    if least > budget * total:
        raise RewriteError(
            f"the cheapest choice has {least / total:.2f} times the MACs of these layers, and {budget} is "
            f"asked for: allow smaller ratios"
        )
    low, high = 0.0, 1.0
    while _macs(_taken(options, high, total), options) > budget * total:
        high *= 4
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _macs(_taken(options, middle, total), options) > budget * total:
            low = middle
        else:
            high = middle
    return tuple(one for one in _taken(options, high, total) if one is not None)


def _taken(options: Sequence[list[Proposal]], price: float, total: int) -> list[Proposal | None]:
    """For each layer the least of error and cost at that price; None where it stays."""

    def cost(one: Proposal) -> float:
        return (one.error or 0.0) ** 2 + price * one.after.macs / total

    best = [min(layer, key=cost) for layer in options]
    return [one if cost(one) < price * one.before.macs / total else None for one in best]


def _macs(taken: Sequence[Proposal | None], options: Sequence[list[Proposal]]) -> int:
    pairs = zip(taken, options, strict=True)
    return sum(layer[0].before.macs if one is None else one.after.macs for one, layer in pairs)
