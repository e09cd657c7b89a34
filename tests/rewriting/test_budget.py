"""Layers that lose less give more, and together they keep to the budget."""

import itertools
import random

import pytest

from archcost.errors import RewriteError
from archcost.rewriting.budget import within_budget
from archcost.rewriting.proposal import PlaceCosts, Proposal, best_of
from archcost.rewriting.replacement import Replacement


def proposal(name, before, after, error, exact=False):
    costs = [PlaceCosts(0, macs, 0, 1, 0, None) for macs in (before, after)]
    return Proposal("rule", {}, "Conv2d", "", Replacement({name: ()}, exact=exact), (), (), *costs, error)


def layers(seed, count=4):
    draw = random.Random(seed)
    made = []
    for number in range(count):
        macs, weak = draw.randint(50, 500), draw.random()
        for ratio in (0.2, 0.4, 0.6, 0.8):
            made.append(proposal(f"{number}", macs, int(ratio * macs), weak * (1 - ratio)))
    return made


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
def test_the_budget_is_kept_at_nearly_the_least_error(seed, budget):
    given = layers(seed)
    by_name = {}
    for one in given:
        by_name.setdefault(one.name, [None]).append(one)
    total = sum(one[1].before.macs for one in by_name.values())
    macs = {name: one[1].before.macs for name, one in by_name.items()}

    def cost(chosen):
        return sum(macs[n] if p is None else p.after.macs for n, p in zip(by_name, chosen, strict=True))

    def loss(chosen):
        return sum(0 if p is None else p.error**2 for p in chosen)

    best = min((c for c in itertools.product(*by_name.values()) if cost(c) <= budget * total), key=loss)
    found = within_budget(given, budget)
    full = [next((p for p in found if p.name == name), None) for name in by_name]
    assert cost(full) <= budget * total
    # The price method may leave a part of the budget unused that no single step fits into.
    largest = max(p.error**2 for p in given)
    assert loss(full) <= loss(best) + largest


def test_a_budget_that_nothing_keeps_is_said():
    with pytest.raises(RewriteError, match=r"the cheapest choice has 0\.\d+ times the MACs of these layers"):
        within_budget(layers(0), 0.01)


def test_without_errors_there_is_nothing_to_choose_by():
    with pytest.raises(RewriteError, match="the error of rule is not known"):
        within_budget([proposal("a", 10, 5, None)], 0.5)


def test_best_takes_each_module_once_exact_first_then_the_least_error():
    given = [
        proposal("a", 10, 5, 0.3),
        proposal("a", 10, 6, 0.1),
        proposal("b.conv", 10, 5, 0.1),
        proposal("b", 10, 9, 0.5, exact=True),
        proposal("c", 10, 12, 0.0),
    ]
    assert best_of(given) == (given[1], given[3])
