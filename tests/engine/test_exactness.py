"""Where a program is off, layers that add most to it for the least time do without their fast variants."""

import math
import time

import pytest
import torch
from torch import nn

from archcost import kernels
from archcost.engine.exactness import Exactness
from archcost.engine.kept import key_of
from archcost.engine.passes import fused
from helpers.graphs import graph_of

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")

F2, F4, F6 = "F(2x2, 3x3)", "F(4x4, 3x3)", "F(6x6, 3x3)"
SECONDS = {"direct": 1.0, F2: 0.8, F4: 0.6, F6: 0.5}
# What each layer adds to the error by each of its variants.
ADDS = tuple({"direct": 0.0, F2: 0.08 * most, F4: 0.45 * most, F6: most} for most in (6e-5, 6e-4))


@pytest.fixture
def graph():
    layers = nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU()
    return fused(graph_of(nn.Sequential(*layers).eval(), (torch.randn(1, 16, 12, 12),)))


@pytest.fixture
def keys(graph):
    return [key_of(node) for node in graph.nodes]


def error_of(keys):
    return lambda names: math.hypot(1e-6, *(adds[names[key]] for key, adds in zip(keys, ADDS, strict=True)))


def settled(graph, keys, allowed, deadline):
    """Variants picked in turn until the outputs are exact enough, and how often it took."""
    times = {(key, name): one for key in keys for name, one in SECONDS.items()}
    found, banned = Exactness(graph, times, error_of(keys), allowed), frozenset()
    for turn in range(9):
        free = {key: [name for name in SECONDS if (key, name) not in banned] for key in keys}
        chosen = {key: min(names, key=SECONDS.get) for key, names in free.items()}
        if (off := error_of(keys)(chosen)) <= allowed:
            return [chosen[key] for key in keys], turn
        if not turn:
            found.probe(chosen, deadline)
        more = found.without(chosen, banned, off)
        assert more
        assert not more & banned
        banned |= more
    raise AssertionError("it goes on and on")


def test_only_the_layer_whose_errors_reach_the_outputs_does_without(graph, keys):
    assert settled(graph, keys, 1e-4, math.inf) == ([F6, F2], 1)
    assert settled(graph, keys, 4e-5, math.inf) == ([F4, "direct"], 1)
    assert settled(graph, keys, 6e-6, math.inf) == ([F2, "direct"], 1)
    assert settled(graph, keys, 1.0, math.inf) == ([F6, F6], 0)


def test_without_time_to_look_it_still_comes_to_an_end(graph, keys):
    for allowed in (1e-4, 5e-6, 1.1e-6):
        picked, _ = settled(graph, keys, allowed, time.perf_counter() - 1)
        assert error_of(keys)(dict(zip(keys, picked, strict=True))) <= allowed


def test_nothing_is_left_to_do_without_where_all_are_exact(graph, keys):
    times = {(key, name): one for key in keys for name, one in SECONDS.items()}
    found = Exactness(graph, times, error_of(keys), 1e-9)
    found.probe(dict.fromkeys(keys, F6), math.inf)
    assert not found.without(dict.fromkeys(keys, "direct"), frozenset(), 1e-3)
