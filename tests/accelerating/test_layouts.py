"""Layouts are chosen for the network as a whole, and the choice is the best there is."""

import itertools
import random

import pytest
import torch
from torch import nn

import archcost
from archcost.accelerating.layouts import (
    CHANNELS_LAST,
    NCHW,
    Link,
    best_labels,
    pinned_by_views,
    regions,
)


def random_links(seed):
    """Costs as convolutions have them: with its sides apart, one costs what the dearer of the two does."""
    rng = random.Random(seed)
    count = rng.randint(1, 7)
    links = []
    for _ in range(rng.randint(1, 10)):
        a, b = rng.random(), rng.random()
        apart = (max(a, b), max(a, b)) if rng.random() < 0.5 else (a + rng.random(), b + rng.random())
        links.append(Link(rng.randrange(count), rng.randrange(count), ((a, apart[0]), (apart[1], b))))
    pinned = {rng.randrange(count): rng.randint(0, 1) for _ in range(rng.randint(0, 2))}
    return count, links, pinned


@pytest.mark.parametrize("seed", range(60))
def test_no_other_choice_is_faster(seed):
    count, links, pinned = random_links(seed)

    def cost(labels):
        return sum(link.costs[labels[link.source]][labels[link.target]] for link in links)

    found = best_labels(links, pinned)
    assert all(found[region] == label for region, label in pinned.items())
    others = itertools.product((NCHW, CHANNELS_LAST), repeat=count)
    allowed = [one for one in others if all(one[region] == label for region, label in pinned.items())]
    assert cost({region: found.get(region, 0) for region in range(count)}) < min(map(cost, allowed)) + 1e-6


def traced(model, *shape):
    return archcost.analyze(model.eval(), torch.zeros(*shape)).trace


def ends(trace):
    found = regions(trace)
    convolutions = [op for op in trace.ops if op.base == "aten.convolution"]
    return [(found[op.args[0].storage], found[op.outputs[0].storage]) for op in convolutions]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.bn(self.a(x)).relu_()
        return self.c(torch.cat([y, self.b(y)], 1)[:, :4])


def test_operations_that_keep_the_layout_join_what_they_touch():
    (a_in, a_out), (b_in, b_out), (c_in, c_out) = ends(traced(Branches(), 1, 4, 8, 8))
    assert a_in != a_out
    assert a_out == b_in == b_out == c_in != c_out


def test_convolutions_part_regions_and_single_pixels_join_none():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
    (_, first), (second, _) = ends(traced(model, 1, 3, 8, 8))
    assert first != second


def test_what_is_viewed_as_a_row_is_in_nchw():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    trace = traced(model, 1, 3, 8, 8)
    assert pinned_by_views(trace, regions(trace)) == {ends(trace)[0][1]: NCHW}
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    trace = traced(pooled, 1, 3, 8, 8)
    assert pinned_by_views(trace, regions(trace)) == {}
