"""Views, slices and writes in place are read as values assigned once; inputs and outputs as they come."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from archcost.engine.evaluate import evaluate
from helpers.graphs import Model, assert_read, calls, graph_of

X, TOKENS = (2, 6, 9, 11), (2, 5, 8)

VIEWS = [
    lambda x: x.view(2, 6, 99),
    lambda x: x.reshape(-1),
    lambda x: x.flatten(1),
    lambda x: x.flatten(2).transpose(1, 2),
    lambda x: x.permute(0, 2, 3, 1),
    lambda x: x.permute(0, 2, 3, 1).reshape(2, -1),
    lambda x: x.permute(3, -3, 0, 2).contiguous().view(66, 18),
    lambda x: x.unsqueeze(1).squeeze(1),
    lambda x: x[:, :1].squeeze(),
    lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2),
    lambda x: x[0, 0].t(),
    lambda x: x[0, 0, 0].t(),
    lambda x: x.mT,
    lambda x: x.movedim(1, -1),
    lambda x: F.pixel_shuffle(x, 1) + F.pixel_unshuffle(x[:, :, :8, :10], 2).mean(),
    lambda x: F.channel_shuffle(x, 3),
    lambda x: x.detach(),
    lambda x: x.clone(memory_format=torch.channels_last),
    lambda x: x.to(memory_format=torch.channels_last) * 2,
    lambda x: x.contiguous(memory_format=torch.channels_last).view(2, 6, 9, 11) + 1,
    lambda x: x.to(x.dtype),
    lambda x: F.dropout(x, 0.5, False),
    lambda x: x.expand(2, 6, 9, 11),
    lambda x: x[:, :, :1].expand(-1, -1, 9, -1),
    lambda x: x[:1].expand(1, 6, 9, 11),
    lambda x: x.mean((2, 3)).expand(1, 2, 6),
    lambda x: x[:, :1].repeat(1, 3, 1, 1),
    lambda x: x.flip(2),
    lambda x: x.roll(1, 3),
    lambda x: x.as_strided((2, 6, 9, 11), (594, 99, 11, 1)),
    lambda x: x.as_strided((3, 4), (1, 2), 5),
    lambda x: x.unfold(2, 3, 2),
    lambda x: x.diagonal(dim1=2, dim2=3),
    lambda x: F.pad(x, (1, 2, 0, 1), value=0.5),
    lambda x: x.triu(),
    lambda x: x.swapaxes(1, 2).squeeze(0),
]
PARTS = [
    lambda x: x.chunk(4, 1),
    lambda x: x.chunk(2, -1),
    lambda x: x.split(4, 1),
    lambda x: x.split([1, 5], 1)[1],
    lambda x: torch.tensor_split(x, 3, 3),
    lambda x: x.unbind(1)[2],
    lambda x: x.unbind(-2),
    lambda x: x.narrow(1, 2, 3),
    lambda x: x.narrow(2, -4, 3),
    lambda x: x.narrow(1, 2, 0),
    lambda x: x.select(1, -2),
    lambda x: x[:, 3],
    lambda x: x[..., -1],
    lambda x: x[:, 1::2],
    lambda x: x[:, -3:-1],
    lambda x: x[:, 4:2],
    lambda x: x[:, :, ::2, 1::2],
    lambda x: x[:, :, 1:-1, -5:],
    lambda x: x[-1:, 2:100],
    lambda x: x[1],
    lambda x: x[:, torch.arange(5, 0, -2)],
    lambda x: x[:, :, None, 3],
    lambda x: x.index_select(1, torch.arange(1, 6, 4)),
    lambda x: torch.cat([x[..., ::2, ::2], x[..., ::2, 1::2].new_zeros(2, 6, 5, 6)], 1),
]
JOINED = [
    lambda x: torch.cat([x, x.relu()], 1),
    lambda x: torch.cat([x, x.relu()], -3),
    lambda x: torch.cat([x, x.relu(), x[:, :1]], 1),
    lambda x: torch.cat([x, x], 0),
    lambda x: torch.cat([x, x], 3),
    lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1),
    lambda x: torch.cat([x.new_empty(0), x], 1),
    lambda x: torch.cat([x[:, :0], x], 1),
    lambda x: torch.cat([x, torch.ones(2, 1, 9, 11, dtype=x.dtype)], 1),
    lambda x: torch.stack([x, -x], 1),
    lambda x: torch.cat([torch.cat([x[:, 4:], x], 1)[:, 1:5], x], 1),
    lambda x: sum([x, x * 2, x * 3]),
]


@pytest.mark.parametrize("function", [*VIEWS, *PARTS, *JOINED])
def test_views_parts_and_concatenations(function):
    """Of an input, and of what was computed from it."""
    assert_read(Model(function), torch.randn(X))
    assert_read(Model(lambda x: function(x * 2)), torch.randn(X))


def parts_changed(x):
    y = x * 2
    a, b = y.chunk(2, 1)
    return torch.cat([a.relu(), b], 1)


def chain(x):
    y = x + 1
    y += 2
    y.mul_(3).sub_(x).div_(2)
    y.relu_().clamp_(max=4)
    return y


def chain_behind_view(x):
    y = (x + 1).view(2, -1)
    return y.relu_().view(2, 6, 99).mul_(2)


def unchanged_part(x):
    y = x * 2
    z = y[:, :2] + 1
    y.relu_()
    return y, z


def returned_before_and_after(x):
    y = x * 2
    z = y.clone()
    y.add_(1)
    return y, z


def operators_that_are_called(x):
    y = x * 2
    y.masked_fill_(x > 0.5, 3.0).cumsum_(1)
    y.index_put_((y > 1,), y.mean())
    z = torch.empty_like(y)
    return y, z.copy_(y).exp_()


def views_of_a_constant(x):
    table = torch.zeros(6, dtype=x.dtype)
    part = table[2:4]
    table[1:3].fill_(5.0)
    part += 1
    return x * table.view(6, 1, 1) + part.sum()


CHAINS = [
    parts_changed,
    chain,
    chain_behind_view,
    unchanged_part,
    returned_before_and_after,
    operators_that_are_called,
    views_of_a_constant,
]


@pytest.mark.parametrize("function", CHAINS)
def test_writes_in_place(function):
    assert_read(Model(function), torch.randn(X))


def test_tied_weights_and_constants_computed_from_parameters():
    layer = nn.Linear(8, 8)
    tied = nn.Sequential(layer, nn.ReLU(), layer)
    tied.append(nn.Linear(8, 8, bias=False))
    tied[3].weight = layer.weight
    graph = assert_read(tied, torch.randn(TOKENS))
    assert not calls(graph)
    scaled = Model(
        lambda x, layer: F.linear(x, layer.weight.softmax(1) * 2, layer.bias.exp()), nn.Linear(8, 3)
    )
    assert not calls(assert_read(scaled, torch.randn(TOKENS)))
    assert_read(nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 3)), torch.randn(X))
    assert_read(Model(lambda x, position: x + position, position=torch.randn(1, 5, 8)), torch.randn(TOKENS))


def test_state_of_constants_is_known():
    graph = graph_of(
        Model(lambda x, layer: x * layer.weight.exp() + layer.bias, nn.Linear(8, 1)), (torch.randn(TOKENS),)
    )
    named = [value.state for node in graph.nodes for value in node.inputs if value.state]
    assert named == [("parts.0.weight",), ("parts.0.bias",)]


def test_integer_tensors_on_the_way():
    picked = Model(lambda x: x.gather(1, x.argsort(1)))
    assert_read(picked, torch.randn(X))
    masked = Model(lambda x: torch.where(x > 0, x, x * 0.1))
    assert_read(masked, torch.randn(X))
    counted = Model(lambda x: x * (x.argmax(1, keepdim=True) + 2).relu())
    assert_read(counted, torch.randn(X))
    assert_read(Model(lambda x: torch.sigmoid(x.argmax(1)) + 1), torch.randn(X))
    words = Model(lambda i, table: table(i).mean(1), nn.Embedding(10, 4))
    assert_read(words, torch.randint(10, (2, 7)))
    assert_read(Model(lambda i, x: x * (i + 1)), torch.randint(10, (5, 1)), torch.randn(TOKENS))


def structure(values):
    """Which outputs are the same value, and which are inputs."""
    return [values.index(one) for one in values]


def test_inputs_and_outputs_in_any_structure():
    x, y = torch.randn(X), torch.randn(X)
    nested = Model(lambda a, b: {"sum": a + b, "rest": (a, [b * 2, {"c": a - b}])})
    assert_read(nested, x, y)
    assert_read(Model(lambda a, b: a / (b + 9)), {"a": x, "b": y})
    assert_read(Model(lambda pair: pair[0] + pair[1]["y"]), (x, {"y": y}))
    same = graph_of(Model(lambda a: (a.relu(), a)), (x,))
    assert same.outputs[1] is same.inputs[0]

    def twice(a):
        b = a.relu()
        return b, a, b

    graph = assert_read(Model(twice), x)
    assert structure(graph.outputs) == [0, 1, 0]
    assert graph.outputs[1] is graph.inputs[0]


def test_same_tensor_as_two_inputs():
    x = torch.randn(X)
    graph = graph_of(Model(lambda a, b: a * 2 + b), (x, x))
    found = evaluate(graph, [x, x])
    torch.testing.assert_close(found[0], 3 * x.double())


def test_constant_as_output():
    graph = assert_read(Model(lambda x, table: (x * 2, table + 1), table=torch.randn(3)), torch.randn(X))
    assert graph.outputs[1].constant is not None


def test_recurrent_layers_are_called():
    assert_read(nn.GRU(8, 4, batch_first=True).eval(), torch.randn(TOKENS))
