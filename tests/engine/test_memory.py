"""Tensors are converted once, concatenated in place, and never lie over another that is needed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from archcost import kernels
from archcost.engine.forms import Convert, Form, in_forms
from archcost.engine.lowering import lowered
from archcost.engine.lowering.registry import wanted
from archcost.engine.memory import ALIGNMENT, Buffer, arena, held
from archcost.engine.operators import Channels
from archcost.engine.passes import fused
from archcost.engine.program import Program
from helpers.graphs import Model, graph_of
from helpers.random_cnns import random_cnn

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")
X = (1, 16, 9, 11)
LANES = 16


def conv(ins=16, outs=16, kernel=1):
    return nn.Conv2d(ins, outs, kernel, padding=kernel // 2)


def laid_out(function, *parts, shape=X):
    """The graph with conversions, the forms, and the place of every tensor."""
    graph, forms = in_forms(fused(graph_of(Model(function, *parts), (torch.randn(shape),))), wanted)
    return graph, forms, held(graph, forms, LANES)


def conversions(graph):
    return [node.operator.to for node in graph.nodes if isinstance(node.operator, Convert)]


def test_tensor_is_converted_once_for_all_that_read_it():
    graph, forms, _ = laid_out(lambda x, a, b: (a(x), b(x), x.cumsum(1)), conv(), conv())
    assert conversions(graph) == [Form.BLOCKED, Form.PLAIN, Form.PLAIN]
    assert all(forms[value] is Form.PLAIN for value in (*graph.inputs, *graph.outputs))


def test_output_that_is_also_read_is_converted_for_the_caller():
    graph, _, _ = laid_out(lambda x, a, b: (lambda y: (y, b(y), y.cumsum(1)))(a(x)), conv(), conv())
    assert conversions(graph) == [Form.BLOCKED, Form.PLAIN, Form.PLAIN]
    first, _, last = graph.outputs
    (cumulated,) = [node for node in graph.nodes if node.output is last]
    assert cumulated.inputs == (first,)


def test_images_of_few_channels_are_read_as_they_come():
    graph, _, _ = laid_out(lambda x, a: a(x), conv(3), shape=(1, 3, 9, 11))
    assert conversions(graph) == [Form.PLAIN]


def test_concatenation_of_whole_blocks_is_in_place():
    def forward(x, a, b, c):
        return c(torch.cat([a(x).relu(), b(x).relu()], 1))

    graph, _, places = laid_out(forward, conv(outs=32), conv(outs=5), conv(37))
    (joined,) = [node for node in graph.nodes if isinstance(node.operator, Channels)]
    first, second = (places[value] for value in joined.inputs)
    assert first.buffer is second.buffer is places[joined.output].buffer
    assert (first.offset, second.offset) == (0, 2 * 99 * LANES)
    assert first.batch_stride == second.batch_stride == 3 * 99 * LANES


def test_concatenation_in_the_middle_of_a_block_is_not():
    def forward(x, a, b, c):
        return c(torch.cat([a(x).relu(), b(x).relu()], 1))

    graph, _, places = laid_out(forward, conv(outs=8), conv(outs=16), conv(24, kernel=3))
    (joined,) = [node for node in graph.nodes if isinstance(node.operator, Channels)]
    first, second = (places[value] for value in joined.inputs)
    assert len({first.buffer, second.buffer, places[joined.output].buffer}) == 3


def test_prefixes_of_a_concatenation_and_slices_of_whole_blocks_are_views():
    def dense(x, a, b, c):
        x = torch.cat([x.relu(), a(x)], 1)
        x = torch.cat([x, b(x)], 1)
        x = torch.cat([x, c(x)], 1)
        return x.sigmoid(), x[:, 16:48].sigmoid()

    parts = conv(), conv(32), conv(48)
    graph, _, places = laid_out(dense, *parts)
    picks = [node.output for node in graph.nodes if isinstance(node.operator, Channels)]
    assert len({places[value].buffer for value in picks}) == 1
    model, x = Model(dense, *parts), torch.randn(X)
    kinds = [getattr(step, "kernel", "torch") for step in lowered(fused(graph_of(model, (x,))), "avx2").steps]
    assert "gather" not in kinds or kernels.library("avx2") is None


def test_reshapes_are_views():
    _, _, places = laid_out(lambda x: (x * 2).view(16, 99).view(-1).view(99, 16) + 1)
    assert len({place.buffer for place in places.values()}) == 5  # the input, twice it, the sum, two numbers


lives = st.tuples(st.integers(0, 400), st.integers(-1, 12), st.integers(0, 9))


@settings(deadline=None, max_examples=150)
@given(st.lists(lives, max_size=25))
def test_buffers_that_live_at_once_never_overlap(drawn):
    buffers = [Buffer(size, first, first + length) for size, first, length in drawn]
    placed, total = arena(buffers)
    for i, one in enumerate(buffers):
        begin, end = placed[one], placed[one] + one.floats
        assert begin % ALIGNMENT == 0
        assert end <= total
        for other in buffers[:i]:
            if one.first <= other.last and other.first <= one.last:
                assert end <= placed[other] or placed[other] + other.floats <= begin
    rounded = [-(-one.floats // ALIGNMENT) * ALIGNMENT for one in buffers]
    needed = [
        sum(size for one, size in zip(buffers, rounded, strict=True) if one.first <= now <= one.last)
        for now in range(-1, 22)
    ]
    assert max(needed) <= total <= sum(rounded)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100_000))
def test_no_node_of_a_network_writes_over_what_is_still_read(seed):
    model, x = random_cnn(seed)
    program = Program(fused(graph_of(model, (x,))))
    graph, places = program.graph, program._held

    def span(value):
        """The floats of a tensor in the arena; None where it lies elsewhere."""
        place = places.get(value)
        if place is None or place.buffer not in program._offsets:
            return None
        start = program._offsets[place.buffer]
        return start, start + place.buffer.floats, place.buffer

    last = {value: i for i, node in enumerate(graph.nodes) for value in node.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    for i, node in enumerate(graph.nodes):
        written = [one for one in map(span, node.outputs) if one]
        earlier = [value for one in graph.nodes[:i] for value in one.outputs if last.get(value, -1) >= i]
        for begin, end, buffer in written:
            for low, high, other in filter(None, map(span, earlier)):
                assert other is buffer or end <= low or high <= begin


def test_arena_holds_what_lives_at_once_and_no_more():
    layers = [layer for _ in range(20) for layer in (conv(kernel=3), nn.ReLU())]
    program = Program(fused(graph_of(nn.Sequential(*layers).eval(), (torch.randn(X),))))
    one = -(-16 * 99 // ALIGNMENT) * ALIGNMENT
    assert program.arena_bytes == 4 * (2 * one + ALIGNMENT)
    assert program.weights_bytes >= 20 * 4 * (16 * 16 * 9 + 16)
