"""Recurrent layers on `meta` cost what they do on a CPU, step by step there, and are not unrolled."""

import contextlib
import itertools

import pytest
import torch
from torch import nn

from archcost.analysis.analysis import analyze
from archcost.errors import InputError
from archcost.trace.recording.composite import AS_ON_CPU

KINDS = {
    "rnn": lambda **options: nn.RNN(6, 5, **options),
    "relu": lambda **options: nn.RNN(6, 5, nonlinearity="relu", **options),
    "gru": lambda **options: nn.GRU(6, 5, **options),
    "lstm": lambda **options: nn.LSTM(6, 5, **options),
    "projected": lambda **options: nn.LSTM(6, 5, proj_size=3, **options),
    "float64": lambda **options: nn.LSTM(6, 5, **options).double(),
}
OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "batch_first", "bias"), values, strict=True))
    for values in itertools.product((1, 2), (False, True), (False, True), (True, False))
]


class Stacked(nn.Module):
    """A recurrent layer between others, so that its input is an activation too."""

    def __init__(self, layer):
        super().__init__()
        self.first = nn.Linear(6, 6, dtype=layer.weight_ih_l0.dtype)
        self.layer = layer

    def forward(self, x):
        return self.layer(torch.relu(self.first(x)))[0]


@contextlib.contextmanager
def real_linear_layers():
    """A CPU pass as it is without a dispatch mode: a linear layer adds its bias in place."""
    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl("linear", AS_ON_CPU[torch.ops.aten.linear.default], "AutogradCPU")
        yield
    finally:
        library._destroy()


def both(model, x):
    """The costs on `meta`, and of a real pass in which the framework's own code unrolls the steps."""
    on_meta = analyze(model, x)
    assert on_meta.trace.device == "meta"
    with real_linear_layers():
        return on_meta, analyze(model, x, device="cpu")


def numbers(analysis):
    total = analysis.total
    return {
        "macs": total.macs,
        "peak": total.peak_memory_bytes,
        "activations": total.activation_bytes,
        "kept": total.kept_for_backward_bytes,
    }


def inputs(model, steps, batch_first):
    dtype = next(model.parameters()).dtype
    return torch.rand((3, steps, 6) if batch_first else (steps, 3, 6), dtype=dtype)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: "-".join(k for k, v in o.items() if v not in (1, False))
)
@pytest.mark.parametrize("kind", KINDS)
def test_costs_are_those_of_a_real_pass(kind, options, steps):
    model = Stacked(KINDS[kind](**options))
    ours, real = both(model, inputs(model, steps, options["batch_first"]))
    assert numbers(ours) == numbers(real)


@pytest.mark.parametrize("layer", ["rnn", "gru", "projected", "lstm"])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_dropout_and_frozen_weights_are_those_of_a_real_pass(layer):
    for model in (
        Stacked(KINDS[layer](num_layers=3, dropout=0.5)),
        Stacked(KINDS[layer](num_layers=2)).eval(),
        Stacked(KINDS[layer](num_layers=2, batch_first=True)).requires_grad_(False),
    ):
        ours, real = (numbers(a) for a in both(model, inputs(model, 4, model.layer.batch_first)))
        assert ours == real


@pytest.mark.parametrize(("steps", "peak"), [(1, 2304), (2, 3328), (5, 6656), (10, 13056)])
def test_the_memory_of_a_gru(steps, peak):
    found = analyze(nn.GRU(16, 32, batch_first=True).eval(), torch.rand(2, steps, 16)).total
    assert found.peak_memory_bytes == peak


def test_the_memory_of_a_plain_recurrent_layer():
    model = nn.RNN(16, 32, batch_first=True).eval()
    assert analyze(model, torch.rand(2, 10, 16)).total.peak_memory_bytes == 7936


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm", "projected"])
def test_a_longer_sequence_takes_no_more_operations(kind):
    model = KINDS[kind]()
    few, many = (analyze(model, torch.rand(steps, 3, 6)) for steps in (3, 1600))
    assert len(few.operations) == len(many.operations)
    assert many.total.macs * 3 == few.total.macs * 1600
    assert many.total.depth == few.total.depth == 1


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm", "projected"])
def test_layers_on_each_other_are_as_deep_as_they_are_many(kind):
    total = analyze(KINDS[kind](num_layers=3), torch.rand(7, 3, 6)).total
    assert (total.depth, total.nonlinearities) == (3, 3)


def test_a_state_of_the_wrong_size_is_said_as_the_framework_says_it():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(6, 5)

        def forward(self, x):
            return torch.gru(
                x, torch.zeros(2, 3, 5, device=x.device), self.gru._flat_weights, *OPTIONS_OF_GRU
            )

    with pytest.raises(InputError):
        analyze(Two(), torch.rand(4, 3, 7))


# has_biases, num_layers, dropout, train, bidirectional, batch_first
OPTIONS_OF_GRU = (True, 1, 0.0, False, False, False)


class Sensitivity(nn.Module):
    """The derivative of a recurrent layer's output by its input."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.layer(x)[0].sum(), x)[0]


def test_a_backward_pass_through_recurrent_layers():
    found = analyze(Sensitivity(nn.GRU(6, 5)), torch.rand(4, 3, 6))
    assert found.trace.outputs.shape == (4, 3, 6)
    assert found.trace.device == "meta"


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm", "projected"])
def test_the_neurons_of_layers_on_each_other_are_those_of_all(kind):
    one, three = (analyze(KINDS[kind](num_layers=layers), torch.rand(7, 3, 6)).total for layers in (1, 3))
    assert three.neurons == 3 * one.neurons == 3 * 7 * 3 * (3 if kind == "projected" else 5)


def test_the_products_of_a_backward_pass_through_an_lstm_are_twice_those_forward():
    found = analyze(Sensitivity(nn.LSTM(6, 5)), torch.rand(4, 3, 6))
    assert found.total.macs == 3 * analyze(nn.LSTM(6, 5), torch.rand(4, 3, 6)).total.macs
    assert not found.uncounted
