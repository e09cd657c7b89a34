"""Models that a list of steps cannot follow are refused, with the module and the reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from archcost.engine.passes import fused
from archcost.engine.reading.read import read
from archcost.engine.reading.registry import Refused
from archcost.trace.hints import traced
from helpers.graphs import Model, graph_of, operators

X = (2, 6, 9, 11)
OUTSIDE = torch.randn(6, 1, 1)


def decides(x):
    return x * 2 if x.sum() > 0 else x * 3


def changes_input(x):
    x[:, 0].zero_()
    return x * 2


def read_after_change(x):
    y = x * 2
    part = y[:, :2]
    y.relu_()
    return part + 1


def base_read_after_change(x):
    y = x * 2
    y[:, :2].zero_()
    return y + 1


REFUSED = [
    (lambda x: F.dropout(x, 0.5, True), "the model: bernoulli draws random numbers at each call"),
    (lambda x: x + torch.rand_like(x), "the model: rand_like draws random numbers at each call"),
    (lambda x: x + torch.randn(6, 1, 1), "the model: randn draws random numbers at each call"),
    (lambda x: x.bernoulli(0.5), "the model: bernoulli draws random numbers at each call"),
    (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), "draws random numbers at each call"),
    (lambda x: x * x.sum().item(), "the model: values decide what is computed (local_scalar_dense)"),
    (decides, "the model: values decide what is computed (local_scalar_dense)"),
    (lambda x: x[x > 0], "values decide what is computed (index)"),
    (lambda x: (x > 0).nonzero(), "values decide what is computed (nonzero)"),
    (lambda x: torch.unique(x), "values decide what is computed"),
    (lambda x: x.repeat_interleave((x[0, 0, 0] > 0).long() + 1, 3), "values decide what is computed"),
    (lambda x: x * 2 if x.equal(x + 0) else x, "values decide what is computed (equal)"),
    (lambda x: x.masked_select(x > 0), "values decide what is computed (masked_select)"),
    (lambda x: x.relu_(), "the model: relu changes input"),
    (changes_input, "changes input"),
    (lambda x: (x.half() * 2).float(), "computes in torch.float16"),
    (lambda x: x.double().sum().float(), "computes in torch.float64"),
    (lambda x: x.bfloat16(), "computes in torch.bfloat16"),
    (read_after_change, "the model: a view is read after what it views was changed"),
    (base_read_after_change, "the model: a view is read after what it views was changed"),
    (lambda x: (x * 2).pow_(2), "the model: pow writes in place"),
    (lambda x: x * OUTSIDE, "the model: a tensor is read that differs from one call to the next"),
    (lambda x: x + torch.tensor([1.0]), "the model: a tensor is read that differs from one call to the next"),
]


def refused(model, inputs):
    """The reason, from a trace with the values of the inputs."""
    state = dict([*model.named_parameters(), *model.named_buffers()])
    with pytest.raises(Refused) as caught:
        read(traced(model, inputs, device="cpu"), state)
    return str(caught.value)


@pytest.mark.parametrize(("function", "reason"), REFUSED)
def test_refused_with_the_reason(function, reason):
    assert reason in refused(Model(function), (torch.randn(X),))


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x / self.calls


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Counts(), "0: add changes 0.calls"),
        (nn.BatchNorm2d(6), "0: add changes 0.num_batches_tracked"),
        (nn.BatchNorm2d(6, momentum=None).train(), "0: add changes 0.num_batches_tracked"),
        (nn.Dropout2d(0.5), "0: "),
        (nn.RReLU(), "0: rrelu_with_noise draws random numbers at each call"),
    ],
    ids=str,
)
def test_module_in_training_or_with_a_state_is_refused_by_name(module, reason):
    assert refused(nn.Sequential(module.train()), (torch.randn(X),)).startswith(reason)


def test_dropout_and_norms_in_evaluation_are_none_of_these():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(6), nn.RReLU(), nn.Dropout2d(0.1)).eval()
    assert operators(fused(graph_of(model, (torch.randn(X),)))) == ["Affine"]  # the slope is its activation
