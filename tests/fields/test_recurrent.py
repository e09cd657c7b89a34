"""Recurrent layers recorded as one operator: every step, and every state, as the model has them."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import archcost
from helpers import dependence
from helpers.calls import Call
from helpers.dependence import disagreements, reals

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
FORMS = ("input", "data")
LIBRARY = torch.library.Library("archcost_whole", "DEF")


def _define(kind, form):
    """The operator under a name of our own, since the framework takes its own apart before it is seen."""
    overload = getattr(getattr(torch.ops.aten, kind), form)
    schema = str(overload._schema).replace(f"aten::{kind}.{form}", f"{kind}_{form}")
    LIBRARY.define(schema)
    LIBRARY.impl(f"{kind}_{form}", overload, "CompositeExplicitAutograd")


for _kind in KINDS:
    for _form in FORMS:
        _define(_kind, _form)


@pytest.fixture(autouse=True)
def _as_one_operator(monkeypatch):
    """Traces say aten.lstm.input where our operator ran."""
    record = dependence.record

    def renamed(op):
        if not op.name.startswith("archcost_whole."):
            return op
        kind, _, form = op.name.split(".")[1].rpartition("_")
        return replace(op, name=f"aten.{kind}.{form}")

    def recorded(*args, **options):
        trace = record(*args, **options)
        ops = tuple(map(renamed, trace.ops))
        assert any(op.name in [f"aten.{k}.{f}" for k in KINDS for f in FORMS] for op in ops)
        return replace(trace, ops=ops)

    monkeypatch.setattr(dependence, "record", recorded)


def layer(kind, *, layers=1, both=False, first=False, **options):
    """A layer of width 3 over 4 features, as a function of its input and first states."""
    name = {"lstm": "LSTM", "gru": "GRU"}.get(kind, "RNN")
    if name == "RNN":
        options["nonlinearity"] = kind.removeprefix("rnn_")
    torch.manual_seed(1)
    module = getattr(nn, name)(4, 3, layers, bidirectional=both, batch_first=first, **options).double()
    weights = [w.detach() for w in module._flat_weights]
    operator = getattr(torch.ops.archcost_whole, f"{kind}_input")

    def run(x, *states):
        if not states:
            zeros = x.new_zeros(layers * (1 + both), x.shape[0 if first else 1], 3)
            states = (zeros, zeros) if kind == "lstm" else (zeros,)
        given = list(states) if kind == "lstm" else states[0]
        return operator(x, given, [w.to(x.device) for w in weights], True, layers, 0.0, False, both, first)

    return Call(run)


X = reals(5, 2, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_sees_those_before_it_and_a_state_all_of_them(kind, both, first, layers):
    model = layer(kind, layers=layers, both=both, first=first)
    # A ReLU may be silent: then the model sees less than it could.
    assert disagreements((model, X), exact=kind != "rnn_relu") == []


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_every_step_sees_the_first_states_of_its_own_sequence(both, first):
    batch, ways = (5, 2)[not first], 1 + both
    states = reals(ways, batch, 3, seed=1), reals(ways, batch, 3, seed=2)
    # At the first step an LSTM's cell state passes by element, which is taken to be seen whole.
    assert disagreements((layer("lstm", both=both, first=first), X, *states), exact=False) == []
    for kind in ("gru", "rnn_tanh"):
        assert disagreements((layer(kind, both=both, first=first), X, states[0])) == []


def test_a_later_layer_sees_the_first_states_of_the_earlier_ones():
    states = reals(2, 2, 3, seed=1), reals(2, 2, 3, seed=2)
    assert disagreements((layer("lstm", layers=2), X, *states), exact=False) == []
    assert disagreements((layer("gru", layers=2), X, states[0])) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("both", [False, True])
def test_packed_sequences_see_no_less_than_the_model_reads(kind, both):
    name = {"lstm": "LSTM", "gru": "GRU"}.get(kind, "RNN")
    weights = [w.detach() for w in getattr(nn, name)(4, 3, bidirectional=both).double()._flat_weights]
    operator = getattr(torch.ops.archcost_whole, f"{kind}_data")
    sizes = pack_padded_sequence(X, [5, 3]).batch_sizes
    zeros = torch.zeros(1 + both, 2, 3, dtype=torch.float64)
    given = [zeros, zeros] if kind == "lstm" else zeros

    def run(data):
        return operator(data, sizes, given, weights, True, 1, 0.0, False, both)

    rows = pack_padded_sequence(X, [5, 3]).data
    assert disagreements((Call(run), rows), exact=False, devices=["cpu"]) == []


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_state_cut_from_the_sequence_adds_no_position(kind):
    """A piece of one step lies along a dimension of size 1, which is no axis beside the steps themselves."""
    module = kind(4, 4, batch_first=True)

    def run(x):
        state = x[:, 5:6]
        return module(x[:, :5], (state, state) if kind is nn.LSTM else state)[0]

    field = archcost.receptive_field(Call(run, module), reals(1, 6, 4).float(), layer="", position=2)
    assert field.window == ((0, 5),)


class Loop(nn.Module):
    """A cell over the steps of a sequence, and its states as a new dimension."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, states = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            states.append(state)
        return torch.stack(states, 1)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell])
def test_a_loop_over_a_cell_sees_what_the_layer_sees(kind, batch, device):
    analysis = archcost.analyze(Loop(kind(4, 4)), torch.rand(batch, 10, 4), device=device)
    field = archcost.receptive_field(analysis, layer="", position=3)
    assert (field.size, field.stride, field.window, field.is_global) == ((4,), (1,), ((0, 3),), False)
    assert analysis.fields.findings == ()


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_a_layer_that_a_device_takes_apart_sees_the_same(kind, both):
    layer = kind(4, 4, batch_first=True, bidirectional=both)
    field = archcost.receptive_field(layer, torch.rand(2, 10, 4), layer="", position=3, device="cpu")
    assert field.window == ((0, 9 if both else 3),)
