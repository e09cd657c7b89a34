"""Variants compared inside of the program: what is faster there is taken, and nothing else changes."""

import time

import pytest
import torch
from torch import nn

from archcost import kernels
from archcost.engine import tuning
from archcost.engine.choosing import choose
from archcost.engine.kept import key_of
from archcost.engine.passes import fused
from archcost.engine.tuning import tune
from helpers.graphs import graph_of

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")

X = torch.randn(1, 16, 12, 12)


@pytest.fixture
def graph():
    layers = nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU()
    return fused(graph_of(nn.Sequential(*layers).eval(), (X,)))


@pytest.fixture
def planted(monkeypatch):
    """No clock: what layers take inside of the program is what the test says, and the whole is their sum."""
    said = {}

    def by_layer(built, inputs):
        return {key: said[key, name] for key, name in built.names.items()}

    monkeypatch.setattr(tuning._Built, "by_layer", by_layer)
    monkeypatch.setattr(tuning._Built, "seconds", lambda built, inputs: sum(by_layer(built, inputs).values()))
    return said


def alone(graph, seconds):
    """Times of variants by themselves."""
    choose(graph, known=(times := {}))
    return {(key, name): seconds(name) for key, name in times}


def test_what_is_faster_inside_is_taken(graph, planted):
    times = alone(graph, lambda name: 1.0 if name == "direct" else 1.2)
    first, second = map(key_of, graph.nodes)
    best = next(name for key, name in times if key == first and name != "direct")
    planted.update({one: 0.5 if one == (first, best) else 1.0 for one in times})
    assert tune(graph, times, [X])
    _, chosen = choose(graph, known=times, deadline=-1)
    assert chosen == {first: best, second: "direct"}
    assert times[first, best] == pytest.approx(0.5 * times[first, "direct"])
    assert times[first, "direct"] == 1.0


def test_what_is_no_faster_inside_leaves_all_times_as_they_were(graph, planted):
    times = alone(graph, lambda name: 1.0 if name == "direct" else 1.1)
    planted.update(dict.fromkeys(times, 1.0))
    before = dict(times)
    assert not tune(graph, times, [X])
    assert times == before


def test_layers_that_gain_while_the_whole_does_not_are_left(graph, planted, monkeypatch):
    times = alone(graph, lambda name: 1.0 if name == "direct" else 1.1)
    planted.update({one: 1.0 if one[1] == "direct" else 0.5 for one in times})
    monkeypatch.setattr(tuning._Built, "seconds", lambda built, inputs: 1.0)
    before = dict(times)
    assert not tune(graph, times, [X])
    assert times == before


def test_variants_that_are_not_allowed_or_far_slower_by_themselves_are_not_tried(graph, planted, monkeypatch):
    times = alone(graph, lambda name: {"direct": 1.0, "F(2x2, 3x3)": 1.1}.get(name, 5.0))
    seen = set()

    def by_layer(built, inputs):
        seen.update(built.names.values())
        return dict.fromkeys(built.names, 1.0)

    monkeypatch.setattr(tuning._Built, "by_layer", by_layer)
    tune(graph, times, [X])
    assert seen == {"direct", "F(2x2, 3x3)"}
    seen.clear()
    tune(graph, times, [X], allowed=lambda key, name: name == "direct")
    assert seen <= {"direct"}


def test_for_real_until_the_deadline(graph):
    times = alone(graph, lambda name: 1.0)
    assert tune(graph, times, [X], deadline=time.perf_counter() - 1) is False
    tune(graph, times, [X], deadline=time.perf_counter() + 2)
    assert all(one > 0 for one in times.values())
