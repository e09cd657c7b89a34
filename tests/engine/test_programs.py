"""A program computes what the model does, whatever was in its memory before, and whoever else runs it."""

import gc
import os
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from archcost import kernels
from archcost.engine.evaluate import evaluate
from archcost.engine.lowering.builder import TorchStep
from archcost.engine.passes import fused
from archcost.engine.program import Program
from archcost.trace.inputs import tensors_in
from helpers.graphs import Model, exact, graph_of, settled, worst
from helpers.random_cnns import random_cnn

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")
each_isa = pytest.mark.parametrize("isa", kernels.usable_isas())
NAN, INF = float("nan"), float("inf")
X = (2, 6, 9, 11)


def program_of(model, *inputs, isa=None):
    """Its arena full of what must not be read."""
    program = Program(fused(graph_of(model, inputs)), isa)
    program._memory().arena.fill_(NAN)
    return program


@pytest.fixture(autouse=True)
def threads():
    """As many as there were before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@each_isa
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 100_000), count=st.integers(1, 2))
def test_random_networks(isa, seed, count):
    model, x = random_cnn(seed)
    graph = graph_of(model, (x,))
    program = Program(fused(graph), isa)
    program._memory().arena.fill_(NAN)
    torch.set_num_threads(count)
    expected = evaluate(graph, [x])
    found = program([x])
    kept = [one.clone() for one in found]
    assert worst(found, expected) < 1e-5
    program([-3 * x])
    assert all(torch.equal(one, other) for one, other in zip(found, kept, strict=True))
    program([torch.full_like(x, NAN)])
    assert worst(program([x]), expected) < 1e-5


@each_isa
@pytest.mark.parametrize("odd", [NAN, INF, -INF])
def test_what_is_no_number_reaches_what_it_reaches_in_pytorch(isa, odd):
    for seed in range(12):
        model, x = random_cnn(seed)
        program = program_of(model, x, isa=isa)
        x[0, 0, 2, 3] = odd
        with torch.no_grad():
            expected = tensors_in(model(x))
        for one, other in zip(program([x]), expected, strict=True):
            assert not (one.isfinite() & ~other.isfinite()).any(), seed


NOT_ZERO = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "sum": lambda x: x + 1.5,
    "difference": lambda x: 1 - x,
    "quotient": lambda x: 1 / (x * x + 1),
    "clamp": lambda x: x.clamp(0.5, 2),
    "maximum": lambda x: torch.maximum(x, x.new_full((), 0.5)),
    "exp": torch.exp,
    "norm": lambda x: F.batch_norm(
        x, x.new_zeros(x.shape[1]), x.new_ones(x.shape[1]), bias=x.new_ones(x.shape[1])
    ),
    "several": lambda x: F.softplus(x.relu() + 1).sigmoid() * 2,
}


def heads(n):
    return [
        (lambda y: y.mean((2, 3)), ()),
        (lambda y: F.adaptive_avg_pool2d(y, 1), ()),
        (lambda y: y.mean(1), ()),
        (lambda y: y.softmax(1), ()),
        (lambda y, a: a(y.flatten(1)), (nn.Linear(n * 20, 5),)),
        (lambda y, a: a(y.permute(0, 2, 3, 1)), (nn.LayerNorm(n),)),
        (lambda y, a: a(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).mean((2, 3)), (nn.LayerNorm(n),)),
        (lambda y, a: a(y), (nn.Conv2d(n, 4, 1),)),
        (lambda y, a: a(y), (nn.Conv2d(n, 4, 3, padding=1),)),
        (lambda y, a: a(F.interpolate(y, scale_factor=2)), (nn.Conv2d(n, n, 3, padding=1, groups=n),)),
        (
            lambda y, a, b: y * b(a(y.mean((2, 3), True)).relu()).sigmoid(),
            (nn.Conv2d(n, 4, 1), nn.Conv2d(4, n, 1)),
        ),
        (lambda y: torch.cat([y, y.relu()], 1).mean((2, 3)), ()),
        (lambda y: F.avg_pool2d(y, 3, 1, 1).mean((2, 3)), ()),
    ]


@pytest.mark.parametrize("channels", [3, 17])
@pytest.mark.parametrize("name", NOT_ZERO)
def test_lanes_without_a_channel_never_count(name, channels):
    convolution, function = nn.Conv2d(3, channels, 3), NOT_ZERO[name]
    x = torch.randn(2, 3, 6, 7)
    for head, parts in heads(channels):
        model = settled(
            Model(lambda x, c, *parts, head=head: head(function(c(x)), *parts), convolution, *parts)
        )
        for isa in kernels.usable_isas():
            assert worst(program_of(model, x, isa=isa)([x]), exact(model, (x,))) < 1e-5


def both(y):
    return y, y.flatten(1), y


CONV = nn.Conv2d(6, 8, 3)
CASES = [
    (lambda x: x.flatten(1), ()),
    (lambda x: x.flatten(1).cumsum(1), ()),
    (lambda x: (x * 2, x.argmax(1)), ()),
    (lambda x: x.gather(1, x.argsort(1)), ()),
    (lambda x: torch.fft.irfft2(torch.fft.rfft2(x * 2), s=(9, 11)), ()),
    (lambda x, a: a(x).cumsum(2).relu(), (CONV,)),
    (lambda x, a: a(a(x.flip(1))[:, :6].roll(1, 2)).sigmoid(), (CONV,)),
    (lambda x, a: both(a(x)), (CONV,)),
    (lambda x, a: (lambda y: (y[:, 2:5], y.relu()))(a(x)), (CONV,)),
    (lambda x, a: torch.cat([a(x)[:, :0], a(x)], 1), (CONV,)),
    (lambda x, a: (lambda y: (y[:, 16:], y[:, :16], torch.cat([y, y], 1)))(a(x)), (nn.Conv2d(6, 32, 3),)),
    (lambda x, a: a(x) * torch.ones(1, 1, 1, 1, 1, dtype=x.dtype), (CONV,)),
    (
        lambda x, p, u: u(*p(x), output_size=x.shape[2:]),
        (nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)),
    ),
    (lambda x: F.scaled_dot_product_attention(x, x[:1], x[:1]), ()),
    (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), ()),
    (lambda x: F.scaled_dot_product_attention(x, x[:, :, :4], x[:, :, :4], is_causal=True), ()),
    (lambda x: F.scaled_dot_product_attention(x, x, x, x[:, :1, :, :9].relu()), ()),
    (lambda x: F.scaled_dot_product_attention(x, x, x, x[:, :, :1, :9] * 2), ()),
    (lambda x, a: F.scaled_dot_product_attention(x, x, x, a.weight[:9, :9] > -0.1), (nn.Linear(9, 9),)),
    (lambda x, a: F.scaled_dot_product_attention(x, x, x, a.weight[:9, :9]), (nn.Linear(9, 9),)),
]


@pytest.mark.parametrize(("function", "parts"), CASES)
def test_views_integers_and_operators_of_pytorch_in_the_middle(function, parts):
    model, x = Model(function, *parts), torch.randn(X)
    program = program_of(model, x)
    found, expected = program([x]), exact(model, (x,))
    assert worst(found, expected) < 1e-5
    kept = [one.clone() for one in found]
    program([-x])
    assert all(torch.equal(one, other) for one, other in zip(found, kept, strict=True))


CONSTANTS = [
    (lambda x, c: x + c, nn.Identity(), (1, 6, 9, 11)),
    (lambda x, c: x + c, nn.Conv2d(6, 6, 1), (1, 6, 9, 11)),
    (lambda x, c: c - x, nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 9, 11)),
    (lambda x, c: x + c, nn.Linear(11, 11), (1, 6, 9, 11)),
    (lambda x, c: x * c, nn.Conv2d(6, 6, 1), (9, 11)),
    (lambda x, c: torch.cat([c, x], 1), nn.Conv2d(6, 6, 1), (1, 2, 9, 11)),
    (
        lambda x, c: F.conv2d(torch.cat([c, x], 1), c[0, :, 0, 0].repeat(3, 4)[..., None, None]),
        nn.ReLU(),
        (1, 2, 9, 11),
    ),
    (lambda x, c: torch.maximum(c, x), nn.Conv2d(6, 6, 1), (6, 1, 1)),
    (lambda x, c: c @ x, nn.ReLU(), (4, 9)),
    (lambda x, c: (x, c + 1), nn.ReLU(), (3,)),
]


@pytest.mark.parametrize(("function", "layer", "shape"), CONSTANTS)
def test_constants(function, layer, shape):
    model = Model(lambda x, layer, c: function(layer(x), c), layer, c=torch.randn(shape))
    x = torch.randn(1, *X[1:])
    assert worst(program_of(model, x)([x]), exact(model, (x,))) < 1e-5


def test_constant_gate_of_a_batch():
    model = Model(lambda x, layer, c: layer(x * c), nn.Conv2d(6, 4, 1), c=torch.randn(2, 6, 1, 1))
    x = torch.randn(X)
    assert worst(program_of(model, x)([x]), exact(model, (x,))) < 1e-5


def test_inputs_and_what_is_returned_twice_are_as_in_the_original():
    x = torch.randn(X)

    def returned(x, layer):
        y = layer(x)
        return x, y, y, x.clone(), y.clone()

    same, y, again, copy, other = program_of(Model(returned, CONV), x)([x])
    assert same is x
    assert again is y
    assert copy is not x
    assert other.data_ptr() != y.data_ptr()
    assert torch.equal(copy, x)
    assert torch.equal(other, y)


def test_integer_inputs_and_empty_batches():
    words, x = Model(lambda i, table: table(i).mean(1).relu(), nn.Embedding(10, 4)), torch.randint(10, (2, 7))
    assert worst(program_of(words, x)([x]), exact(words, (x,))) < 1e-6
    model, none = nn.Sequential(CONV, nn.SiLU(), nn.MaxPool2d(2, 1)), torch.randn(0, *X[1:])
    assert program_of(model, none)([none])[0].shape == (0, 8, 6, 8)


def network():
    """One whose steps are split among threads."""
    layers = nn.Conv2d(3, 32, 3, 2, 1), nn.SiLU(), nn.Conv2d(32, 40, 3, padding=1), nn.ReLU()
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10)).eval()


def test_threads_run_one_program_at_once_each_in_memory_of_its_own():
    model, inputs = network(), [torch.randn(1, 3, 40, 40) for _ in range(2)]
    program = program_of(model, inputs[0])
    expected = [exact(model, (x,)) for x in inputs]
    errors, arenas = [0.0, 0.0], []

    def work(number):
        arenas.append(weakref.ref(program._memory()))
        for _ in range(20):
            errors[number] = max(errors[number], worst(program([inputs[number]]), expected[number]))

    running = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert max(errors) < 1e-5
    gc.collect()
    assert [one() for one in arenas] == [None, None]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_program_runs_in_a_child_process():
    torch.set_num_threads(2)
    model, x = network(), torch.randn(1, 3, 40, 40)
    program, expected = program_of(model, x), exact(model, (x,))
    program([x])
    child = os.fork()
    if child == 0:
        os._exit(0 if worst(program([x]), expected) < 1e-5 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_error_in_a_step_leaves_the_program_usable():
    model = Model(lambda i, x, table, layer: layer(table(i) * x), nn.Embedding(10, 4), nn.Linear(4, 3))
    i, x = torch.arange(5), torch.randn(5, 4)
    program = program_of(model, i, x)
    with pytest.raises(IndexError):
        program([i + 8, x])
    assert worst(program([i, x]), exact(model, (i, x))) < 1e-6


def test_times_of_every_step():
    model, x = Model(lambda x, layer: layer(x).cumsum(1).relu(), CONV), torch.randn(X)
    program, times = program_of(model, x), []
    program([x], times)
    assert len(times) == len(program.steps)
    assert all(one >= 0 for one in times)
    assert any(isinstance(step, TorchStep) for step in program.steps)
