"""Every variant of a layer computes the same; the chosen one is fast, exact enough and found in time."""

import math
import random
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from archcost import kernels
from archcost.engine.choosing import choose, variants
from archcost.engine.evaluate import evaluate
from archcost.engine.graph import Graph
from archcost.engine.kept import Kept, key_of
from archcost.engine.operators import Convolution, InvertedResidual
from archcost.engine.passes import fused
from archcost.engine.program import Program
from archcost.latency.store.store import Store
from helpers.graphs import Model, graph_of, settled, worst
from helpers.random_cnns import random_cnn

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")


def conv(ins, outs, kernel, **more):
    taps = (kernel, kernel) if isinstance(kernel, int) else kernel
    return nn.Conv2d(ins, outs, taps, padding=tuple(k // 2 for k in taps), **more)


def mobile(stride=1, added=True):
    def forward(x, a, b, c):
        y = c(b(a(x).clamp(0, 6)).clamp(0, 6))
        return x + y if added else y

    return Model(forward, conv(12, 40, 1), conv(40, 40, 3, stride=stride, groups=40), conv(40, 12, 1))


LAYERS = [
    (conv(17, 19, 3), (2, 17, 13, 11)),
    (conv(16, 8, 5, bias=False), (1, 16, 14, 9)),
    (conv(20, 24, (1, 7)), (1, 20, 9, 18)),
    (conv(9, 33, (3, 1)), (2, 9, 12, 7)),
    (Model(lambda x, a: (x + a(x)).relu(), conv(18, 18, 3)), (2, 18, 12, 12)),
    (Model(lambda x, a: torch.nn.functional.silu(a(x)), conv(18, 6, 3)), (1, 18, 3, 4)),
    (conv(10, 10, 31, groups=10), (2, 10, 30, 26)),
    (Model(lambda x, a: x + a(x), conv(17, 17, (3, 15), groups=17)), (2, 17, 11, 30)),
    (mobile(), (2, 12, 10, 9)),
    (mobile(2, False), (1, 12, 11, 13)),
]


def allowed(name):
    """What a variant may be off: larger Winograd tiles lose digits."""
    if not name.startswith("F("):
        return 2e-6
    return {2: 1e-5, 4: 1e-4}.get(max(map(int, name[2 : name.index(",")].split("x"))), 2e-3)


@pytest.mark.parametrize(("model", "shape"), LAYERS, ids=str)
def test_every_variant_computes_the_same(model, shape):
    x = torch.randn(shape)
    graph = fused(graph_of(settled(model), (x,)))
    expected = evaluate(graph, [x])
    (node,) = [one for one in graph.nodes if isinstance(one.operator, (Convolution, InvertedResidual))]
    found = variants(node)
    assert len(found) > 1
    assert len({name for name, _ in found}) == len(found)
    rest = [one for one in graph.nodes if one is not node]
    assert not rest
    for name, nodes in found:
        changed = Graph(tuple(nodes), graph.inputs, graph.outputs)
        assert worst(evaluate(changed, [x]), expected) < 1e-12
        for isa in kernels.usable_isas():
            program = Program(changed, isa)
            program._memory().arena.fill_(math.nan)
            assert worst(program([x]), expected) < allowed(name), (name, isa)


def test_layers_without_another_way_have_no_variants():
    others = [conv(16, 16, 1), conv(16, 16, 3, stride=2), conv(16, 16, 3, groups=2), conv(3, 16, 3)]
    for model in others:
        graph = fused(graph_of(model, (torch.randn(1, model.in_channels, 9, 9),)))
        assert len(variants(graph.nodes[0])) == 1


def network():
    torch.manual_seed(0)
    layers = conv(16, 24, 3), nn.ReLU(), conv(24, 24, 3), nn.ReLU(), conv(24, 24, 3), nn.ReLU()
    x = torch.randn(1, 16, 16, 16)
    graph = fused(graph_of(nn.Sequential(*layers).eval(), (x,)))
    return graph, x, evaluate(graph, [x])


def preferring(first):
    """Times by which one variant is the fastest, of the layers of `network`."""
    graph, _, _ = network()
    times, _ = {}, choose(graph, known=(known := {}))
    for key, name in known:
        times[key, name] = 1e-9 if name == first else 1e-3
    return times


def test_fastest_variant_by_known_times_is_taken_and_nothing_measured_again():
    graph, x, expected = network()
    names = [name for name, _ in variants(graph.nodes[0])]
    for name in (names[0], names[-1]):
        times = preferring(name)
        before = dict(times)
        made, chosen = choose(graph, known=times)
        assert set(chosen.values()) == {name}
        assert times == before
        assert worst(Program(made)([x]), expected) < allowed(name)


def test_times_are_those_of_the_layer_also_where_a_norm_was_folded_into_it():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()).eval()
    graph, times = fused(graph_of(model, torch.randn(1, 16, 12, 12))), {}
    choose(graph, known=times)
    assert len(times) > 1
    assert all(0 < one < math.inf for one in times.values())


def test_layers_alike_are_measured_once():
    graph, _, _ = network()
    known = {}
    choose(graph, known=known)
    assert len({key for key, _ in known}) == 2


def test_times_in_the_store_are_read_by_models_with_the_same_layers(tmp_path):
    graph, _, _ = network()
    with Store(tmp_path / "store.sqlite") as store:
        first, second = Kept(store), Kept(store)
        _, chosen = choose(graph, kept=first)
        assert first.timed == len(store) > 2
        assert first.read == 0
        again, known = network()[0], {}
        _, same = choose(again, kept=second, known=known, deadline=-math.inf)
        assert (second.timed, second.read) == (0, first.timed)
        assert same == chosen
        assert {one.key.kind for one in store} == {"step"}
        assert {one.median_s for one in store} == set(known.values())
        wider = fused(graph_of(conv(16, 24, 3).eval(), torch.randn(1, 16, 16, 20)))
        other = Kept(store)
        choose(wider, kept=other, deadline=-math.inf)
        assert other.read == 0


def test_keys_tell_layers_apart_by_shape_and_by_what_is_fused_into_them():
    models = [*LAYERS, (nn.Sequential(conv(17, 19, 3), nn.ReLU()), (2, 17, 13, 11)), LAYERS[0]]
    graphs = [fused(graph_of(settled(model), (torch.randn(shape),))) for model, shape in models]
    keys = [key_of(graph.nodes[0]) for graph in graphs]
    assert len(set(keys)) == len(LAYERS) + 1
    assert keys[-1] == keys[0]


def test_deadline_is_kept(monkeypatch):
    from archcost.engine import choosing

    graph, x, expected = network()
    measured = []

    def seconds(node, *rest):
        measured.append(node)
        moved[0] += 1.0
        return 1.0

    moved = [time.perf_counter()]
    monkeypatch.setattr(choosing, "seconds_of", seconds)
    monkeypatch.setattr(choosing.time, "perf_counter", lambda: moved[0])
    made, chosen = choose(graph, deadline=moved[0] + 1.5)
    assert len(measured) == 2
    assert set(chosen.values()) == {"direct"}
    assert worst(Program(made)([x]), expected) < 2e-6


class Drawn(dict):
    """Times of all variants, drawn anew whenever one is asked for."""

    def __init__(self, seed):
        super().__init__()
        self._random = random.Random(seed)

    def __contains__(self, key):
        return True

    def get(self, key, default=None):
        return self._random.random()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100_000))
def test_any_choice_of_variants_in_a_network_computes_the_same(seed):
    model, x = random_cnn(seed)
    graph = fused(graph_of(model, (x,)))
    expected = evaluate(graph, [x])
    made, _ = choose(graph, known=Drawn(seed))
    assert worst(evaluate(made, [x]), expected) < 1e-9
    program = Program(made)
    program._memory().arena.fill_(math.nan)
    assert worst(program([x]), expected) < 1e-3
