"""Tensors that a forward writes down, or that modules hold as plain attributes, are part of the program."""

import itertools

import pytest
import torch
from torch import nn

from archcost import kernels
from archcost.engine.module import Engine, accelerated
from archcost.engine.reading.registry import Refused
from archcost.engine.recipe import Recipe
from archcost.trace.call import Call
from archcost.trace.hints import traced
from helpers.engine import close
from helpers.graphs import Model

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")

X = torch.randn(2, 6, 9, 11)
OUTSIDE = torch.randn(6, 1, 1)


class Holds(nn.Module):
    """A tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(6, 6, 1), torch.randn(6, 1, 1)

    def forward(self, x):
        return self.conv(x) * self.scale


def fast(model):
    with torch.no_grad():
        returned = model(X)
        recipe, graph = Recipe.of(model, Call.of(X), traced(model, X), returned)
        return accelerated(model, Engine(model, recipe, recipe.made(graph)[0]))


def same_shapes(x, a):
    """Products of the same shapes, with a gate and with two constants."""
    y = a(x * x.mean((2, 3), keepdim=True)[:1])
    return y * torch.arange(6.0).view(1, 6, 1, 1) * torch.tensor([[1.0, 2, 3, 4, 5, 6]]).view(1, 6, 1, 1)


@pytest.mark.parametrize(
    "model",
    [
        Model(lambda x, a: a(x) * torch.tensor([1.0, 2.0, 3.0] * 2).view(6, 1, 1), nn.Conv2d(6, 6, 3)),
        Model(lambda x, a: a(x) + torch.tensor(0.5), nn.Conv2d(6, 6, 3)),
        Model(lambda x, a: (a(x) + OUTSIDE)[:, torch.tensor([0, 2, 4])], nn.Conv2d(6, 6, 3)),
        Model(
            lambda x, a: torch.where(torch.tensor([True, False] * 3).view(6, 1, 1), a(x), 0.0),
            nn.Conv2d(6, 6, 3),
        ),
        Model(same_shapes, nn.Conv2d(6, 6, 1)),
        Holds(),
    ],
)
def test_constants_are_part_of_the_program(model):
    found = fast(model.eval())
    with torch.inference_mode():
        assert found.why_not(X) is None
        for x in (X, -X):
            assert close(found(x), model(x))
        for one in model.parameters():
            one.data.mul_(2)
        found.refresh()
        assert close(found(X), model(X))


def test_a_tensor_that_was_put_in_place_of_another_is_seen():
    model = Holds().eval()
    found = fast(model)
    with torch.inference_mode():
        model.scale = torch.randn(6, 1, 1)
        assert "scale has changed" in found.why_not(X)
        assert close(found(X), model(X))


def test_what_differs_from_call_to_call_is_no_constant():
    count = itertools.count(1)
    with pytest.raises(Refused, match="a tensor is read that differs from one call to the next"):
        fast(Model(lambda x: x * torch.tensor(float(next(count)))))


def test_what_is_written_to_is_no_constant():
    held = torch.zeros(6, 1, 1)

    def counts(x):
        held.add_(0)
        return x + held

    with pytest.raises(Refused, match="changes its constant"):
        fast(Model(counts))
