"""Each pass changes what it is for, leaves what only looks like it, and no pass changes what is computed."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from archcost.engine import passes
from archcost.engine.evaluate import evaluate
from archcost.engine.operators import Channels, Convolution
from archcost.engine.passes.picked import absorb_picks
from helpers.graphs import Model, graph_of, operators, settled, worst
from helpers.random_cnns import random_cnn

X, ONE = (2, 6, 9, 11), (1, 6, 9, 11)


def conv(ins=6, outs=6, kernel=1, **more):
    return nn.Conv2d(ins, outs, kernel, **more)


def around(function, *parts, shape=X):
    """The graph in front of a pass, and one of it behind; both compute the same."""

    def run(change):
        x = torch.randn(shape)
        graph = graph_of(settled(Model(function, *parts)), (x,))
        for one in passes.PASSES:
            if one is change:
                break
            graph = one(graph)
        changed = change(graph)
        assert worst(evaluate(changed, [x]), evaluate(graph, [x])) < 1e-12
        return graph, changed

    return run


def last(x):
    """Images with their channels last."""
    return x.permute(0, 2, 3, 1)


def first(x):
    return x.permute(0, 3, 1, 2)


def gate(x, a, b):
    return b(a(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def shuffled(x):
    return x.view(2, 2, 3, 9, 11).transpose(1, 2).reshape(2, 6, 9, 11)


def twice(x):
    """The same, and it again, so that something else reads it too."""
    return x, x + 1


CHANGED = {
    "sink_views": [
        (around(lambda x, n: first(n(last(x))), nn.LayerNorm(6)), ["LayerNorm", "Reshape"]),
        (
            around(lambda x, n, a: first(F.gelu(a(n(last(x))))), nn.LayerNorm(6), nn.Linear(6, 4)),
            ["LayerNorm", "Convolution", "Activate", "Reshape"],
        ),
        (around(shuffled), ["Channels"]),
        (around(lambda x: x.mean((2, 3), keepdim=True).flatten(1)), ["Mean"]),
        (around(lambda x: x.view(2, 6, 99).view(2, -1).view(2, 11, 54)), ["Reshape"]),
        (around(lambda x: last(x).permute(0, 3, 1, 2) * 2), ["Elementwise"]),
        (around(lambda x: x[:, :, :1, :1].permute(0, 2, 3, 1)), ["Slice", "Slice", "Reshape"]),
        (
            around(lambda x, a: a(x.reshape(-1, 11)).relu(), nn.Linear(11, 3)),
            ["Linear", "Activate", "Reshape"],
        ),
    ],
    "merge_channels": [
        (around(lambda x: torch.cat(x.chunk(3, 1)[::-1], 1)), ["Channels"]),
        (around(lambda x: torch.cat([torch.cat([x, -x], 1), x], 1)), ["Elementwise", "Channels"]),
        (
            around(lambda x: twice(torch.cat([x, -x], 1)[:, 2:9])[1]),
            ["Elementwise", "Channels", "Elementwise"],
        ),
    ],
    "merge_branches": [
        (around(lambda x, a, b: a(x) + b(x), conv(kernel=3, padding=1), conv()), ["Convolution"]),
        (
            around(
                lambda x, a, b, n: (a(x) + b(x) + n(x)).relu(),
                *(conv(kernel=3, padding=1, groups=6), conv(groups=6), nn.BatchNorm2d(6)),
            ),
            ["Convolution", "Activate"],
        ),
    ],
    "fold_affine": [
        (around(lambda x, a, n: n(a(x)), conv(kernel=3), nn.BatchNorm2d(6)), ["Convolution"]),
        (around(lambda x, a: 1 - a(x) * 2 / 3, conv()), ["Convolution"]),
        (around(lambda x, n, m: m(n(x)), nn.BatchNorm2d(6), nn.BatchNorm2d(6)), ["Affine"]),
        (around(lambda x, n: x * n.weight.view(6, 1, 1), nn.BatchNorm2d(6)), ["Affine"]),
        (around(lambda x: ((0 + x.tanh()) * 1 - 0).tanh()), ["Activate", "Activate"]),
    ],
    "fold_linears": [
        (
            around(lambda x, a: (a.weight[0, 0] * a(x) + a.bias).relu(), nn.Linear(11, 3)),
            ["Linear", "Activate"],
        ),
        (around(lambda x, a: a(x) * a.weight[:, 0], nn.Linear(11, 3, bias=False), shape=(2, 11)), ["Linear"]),
    ],
    "merge_neighbours": [
        (around(lambda x, a, b: b(a(x)), conv(), conv(outs=4)), ["Convolution"]),
        (
            around(lambda x, a, b: x + b(a(x)).relu(), conv(bias=False), conv(kernel=3, padding=1)),
            ["Convolution", "Activate", "Elementwise"],
        ),
        (around(lambda x, a, b: b(a(x)), conv(outs=12), conv(12, kernel=(1, 3), stride=2)), ["Convolution"]),
        (
            around(lambda x, a, b: b(a(x)), conv(kernel=3, padding=2, dilation=2, stride=2), conv()),
            ["Convolution"],
        ),
        (around(lambda x, a, b: b(a(x)), nn.Linear(11, 9), nn.Linear(9, 4)), ["Linear", "Reshape"]),
    ],
    "fuse_activations": [
        (around(lambda x, a: F.silu(a(x)), conv()), ["Convolution"]),
        (around(lambda x, a: (lambda y: y * y.sigmoid())(a(x)), conv()), ["Convolution"]),
        (around(lambda x: F.hardsigmoid(x) * x), ["Activate"]),
        (around(lambda x, a: F.gelu(a(x)), nn.Linear(8, 3), shape=(2, 8)), ["Linear"]),
        (around(lambda x, n: n(x).relu(), nn.BatchNorm2d(6)), ["Affine"]),
        (around(lambda x: (x + x.mean(1, keepdim=True)).relu()), ["Mean", "Elementwise"]),
    ],
    "fuse_additions": [
        (around(lambda x, a: (x + a(x)).relu(), conv()), ["Convolution"]),
        (
            around(lambda x, a, b: a(x) + b(x.tanh()), conv(), conv()),
            ["Convolution", "Activate", "Convolution"],
        ),
        (around(lambda x, a: a(x) + x, nn.Linear(11, 11)), ["Linear"]),
    ],
    "fuse_gates": [
        (around(lambda x, a, b: gate(x, a, b), conv(outs=2), conv(2)), ["SqueezeExcite"]),
        (
            around(lambda x, a, b, c: c(x * gate(x, a, b)), conv(outs=2), conv(2), conv()),
            ["SqueezeExcite", "Convolution"],
        ),
        (around(lambda x, c: c(x.amax((2, 3), keepdim=True) * x) + x, conv()), ["TorchCall", "Convolution"]),
    ],
    "fuse_before": [
        (
            around(lambda x, n, a: a(n(x).relu()), nn.BatchNorm2d(6), conv(kernel=3, padding=1)),
            ["Convolution"],
        ),
        (around(lambda x, n, a: a(n(x)) + x, nn.BatchNorm2d(6), conv(padding=0)), ["Convolution"]),
    ],
    "fuse_inverted_residuals": [
        (
            around(
                lambda x, a, b, c: x + c(b(a(x).relu()).relu()),
                *(conv(outs=12), conv(12, 12, 3, padding=1, groups=12), conv(12)),
            ),
            ["InvertedResidual"],
        ),
        (
            around(
                lambda x, b, c, d, e: (lambda y: e(y * gate(y, c, d)))(F.silu(b(x))),
                *(conv(kernel=5, stride=2, padding=2, groups=6), conv(outs=2), conv(2), conv()),
            ),
            ["InvertedResidual", "SqueezeExcite", "Convolution"],
        ),
    ],
}

depthwise = conv(6, 6, 3, padding=1, groups=6)
LEFT = {
    "sink_views": [
        around(lambda x, n: n(x), nn.LayerNorm(11)),
        around(lambda x, n: n(x.transpose(1, 3)), nn.LayerNorm(6)),
        around(lambda x: x.view(2, 3, 2, 9, 11).transpose(1, 2).reshape(2, 9, 6, 11)),
        around(lambda x: x.mean((2, 3), keepdim=True).view(6, 2)),
        around(lambda x: last(x).cumsum(1)),
    ],
    "merge_channels": [
        around(lambda x: torch.cat([x, -x], 1)),
        around(lambda x: torch.cat([x, x[:, :, 2:]], 2)),
    ],
    "merge_branches": [
        around(lambda x, a, b: a(x) + b(-x), conv(), conv()),
        around(lambda x, a, b: a(x) - b(x), conv(), conv()),
        around(lambda x, a, b: a(x) + b(x).relu(), conv(), conv()),
        around(lambda x, a, b: (lambda y: (a(x) + y, y))(b(x)), conv(), conv()),
        around(lambda x, a, b: (lambda y: a(x) + y + y.relu())(b(x)), conv(), conv()),
        around(lambda x, a, b: a(x) + b(x), conv(kernel=3, padding=2, dilation=2), conv()),
        around(lambda x, a, b: a(x) + b(x), conv(kernel=3, padding=1), conv(kernel=3, padding=1, groups=2)),
        around(lambda x, a, b: a(x) + b(x), conv(kernel=(3, 1)), conv(kernel=(1, 3), padding=(-1, 1))),
        around(lambda x, a, b: a(x) + b(x), conv(), conv(outs=1)),
    ],
    "fold_affine": [
        around(lambda x, a, n: (lambda y: (n(y), y))(a(x)), conv(), nn.BatchNorm2d(6)),
        around(lambda x, a, n: (lambda y: n(y) + y)(a(x)), conv(), nn.BatchNorm2d(6)),
        around(lambda x, a, n: n(a(x).relu()), conv(), nn.BatchNorm2d(6)),
        around(lambda x, a: 2 / (a(x) + x), conv()),
        around(lambda x, a: a(x) * torch.arange(11, dtype=x.dtype), conv()),
        around(lambda x, a: a(x) * torch.arange(2, dtype=x.dtype).view(2, 1, 1, 1), conv()),
        around(lambda x, a: a(x) * torch.arange(6, dtype=x.dtype).view(6, 1, 1), conv(outs=1)),
        around(lambda x: x * 2),
    ],
    "fold_linears": [
        around(lambda x, a: a(x) + torch.arange(2.0, dtype=x.dtype).view(2, 1, 1, 1), nn.Linear(11, 11)),
        around(lambda x, a: a(x) + torch.ones(1, 2, 6, 9, 3, dtype=x.dtype), nn.Linear(11, 3)),
        around(lambda x, a: a(x).relu() * 2, nn.Linear(11, 3)),
        around(lambda x, a: (lambda y: (y * 2, y))(a(x)), nn.Linear(11, 3)),
        around(lambda x, a: a(x) - 2, nn.Linear(11, 3)),
    ],
    "merge_neighbours": [
        around(lambda x, a, b: b(a(x)), conv(outs=2), conv(2)),
        around(lambda x, a, b: b(a(x)), conv(), conv(kernel=3, padding=1)),
        around(lambda x, a, b: b(a(x)), conv(stride=2), conv(kernel=3)),
        around(lambda x, a, b: b(a(x)), conv(groups=2), conv()),
        around(lambda x, a, b: b(a(x).relu()), conv(), conv()),
        around(lambda x, a, b: (lambda y: (b(y), y))(a(x)), conv(), conv()),
        around(lambda x, a, b: b(a(x)), conv(kernel=3), conv(kernel=3)),
        around(lambda x, a, b: b(a(x)), nn.Linear(11, 3), nn.Linear(3, 11)),
    ],
    "fuse_activations": [
        around(lambda x, a: (lambda y: (y.relu(), y))(a(x)), conv()),
        around(lambda x, a: (lambda y: y.relu() + y.tanh())(a(x)), conv()),
        around(lambda x, a: a(x).softmax(1), conv()),
        around(lambda x: x.relu().tanh()),
        around(lambda x: x * x.tanh().sigmoid()),
    ],
    "fuse_additions": [
        around(lambda x, a: a(x) + x.mean((2, 3), keepdim=True), conv()),
        around(lambda x, a: a(x) + x, conv(outs=1)),
        around(lambda x, a: (lambda y: y + y)(a(x)), conv()),
        around(lambda x, a: (lambda y: (y + x, y))(a(x)), conv()),
        around(lambda x, a: a(x).relu() + x, conv()),
        around(lambda x, a: a(x) - x, conv()),
    ],
    "fuse_gates": [
        around(lambda x, c: c(x * x.mean(1, keepdim=True)), conv()),
        around(lambda x, c: c(x * x[:1].mean((2, 3), keepdim=True)), conv()),
        around(lambda x, c: (lambda y: (c(y), y))(x * x.mean((2, 3), keepdim=True)), conv()),
        around(lambda x, c: c(x * x.mean((2, 3), keepdim=True)), conv(kernel=3)),
        around(lambda x, c: c((x * x.mean((2, 3), keepdim=True)).relu()), conv()),
        around(lambda x, a, b: b(a(x.mean((2, 3), keepdim=True)).relu()), conv(outs=2, groups=2), conv(2)),
        around(lambda x, a, b: (lambda m: b(a(m)) + m)(x.mean((2, 3), keepdim=True)), conv(outs=2), conv(2)),
        around(lambda x, a, b: gate(x, a, b), conv(outs=2), conv(2, 12)),
    ],
    "fuse_before": [
        around(lambda x, n, a: a(F.silu(n(x))), nn.BatchNorm2d(6), conv()),
        around(lambda x, n, a: (lambda y: a(y) + y)(n(x)), nn.BatchNorm2d(6), conv()),
        around(lambda x, n, a: (lambda y: (a(y), y))(n(x)), nn.BatchNorm2d(6), conv()),
        around(lambda x, n, a: a(n(x)), nn.BatchNorm2d(6), conv(groups=2)),
    ],
    "fuse_inverted_residuals": [
        around(lambda x, a, b, c: c(b(a(x))), conv(), conv(kernel=3, groups=2), conv()),
        around(lambda x, a, b, c: c(b(a(x))), conv(), conv(kernel=(3, 1), groups=6), conv()),
        around(lambda x, a, b, c: c(b(a(x))), conv(), conv(kernel=3, dilation=2, groups=6), conv()),
        around(lambda x, a, b, c: c(b(a(x))), conv(), conv(kernel=3, stride=3, groups=6), conv()),
        around(lambda x, a, b, c: (lambda y: (c(y), y))(b(a(x))), conv(), depthwise, conv()),
        around(lambda x, b, c: c(b(x)), depthwise, conv()),
        around(lambda x, a, b: b(a(x)), conv(), depthwise),
    ],
}


@pytest.mark.parametrize(
    ("name", "case", "expected"), [(name, *one) for name in CHANGED for one in CHANGED[name]]
)
def test_pass_changes(name, case, expected):
    before, after = case(getattr(passes, name))
    assert operators(after) == expected
    assert operators(before) != expected


@pytest.mark.parametrize(("name", "case"), [(name, one) for name in LEFT for one in LEFT[name]])
def test_pass_leaves_what_looks_like_it(name, case):
    before, after = case(getattr(passes, name))
    assert operators(after) == operators(before)


def picked(function, *parts, shape=ONE):
    _, changed = around(function, *parts, shape=shape)(lambda graph: absorb_picks(passes.fused(graph), 4))
    return changed


def test_pointwise_convolution_reads_channels_where_they_lie():
    halves = lambda x: x.view(1, 2, 4, 9, 11).transpose(1, 2).reshape(1, 8, 9, 11)  # noqa: E731
    graph = picked(lambda x, a, c: c(halves(a(x))), conv(outs=8), conv(8))
    assert operators(graph) == ["Convolution", "Convolution"]
    assert graph.nodes[1].operator.sources[:3] == ((0, 0), (0, 4), (0, 1))
    graph = picked(lambda x, a, c: c(torch.cat([a(x)[:, :3], x.relu()], 1)), conv(outs=8), conv(9))
    assert operators(graph) == ["Convolution", "Activate", "Convolution"]


def test_convolution_leaves_picks_of_whole_blocks_and_what_it_cannot_read():
    left = [
        picked(lambda x, a, c: c(a(x)[:, 4:]), conv(outs=8), conv(4)),
        picked(lambda x, a, c: c(a(x)[:, 1:]), conv(outs=8), conv(7, kernel=3)),
        picked(lambda x, a, c: c(a(x)[:, 1:]), conv(outs=8), conv(7, stride=2)),
        picked(lambda x, c: c(x[:, 1:]), conv(5)),
    ]
    for graph in left:
        assert any(isinstance(node.operator, Channels) for node in graph.nodes)
        assert all(
            node.operator.sources is None for node in graph.nodes if isinstance(node.operator, Convolution)
        )


def test_fused_node_names_the_modules_whose_work_it_does():
    model = nn.Sequential(conv(), nn.BatchNorm2d(6), nn.ReLU())
    (node,) = passes.fused(graph_of(settled(model), (torch.randn(X),))).nodes
    assert node.modules == ("0", "1", "2")


def test_what_nothing_reads_goes():
    graph = graph_of(Model(lambda x, a: (a(x), x * 2)[1], conv()), (torch.randn(X),))
    assert operators(passes.fused(graph)) == ["Elementwise"]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 100_000))
def test_no_pass_changes_what_a_network_computes(seed):
    model, x = random_cnn(seed)
    graph = graph_of(model, (x,))
    exact = evaluate(graph, [x])
    for change in (
        *dict.fromkeys(passes.PASSES),
        passes.fused,
        lambda graph: absorb_picks(passes.fused(graph), 8),
    ):
        changed = change(graph)
        assert worst(evaluate(changed, [x]), exact) < 1e-9
