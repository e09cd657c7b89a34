"""New layers are compared with old ones on an input of a real pass, and the model stays as it was."""

import random

import pytest
import torch
from torch import nn

from archcost.errors import RewriteError
from archcost.surgery.checking import checked, record_inputs


class Restless(nn.Module):
    """Counts its calls in a buffer, overwrites what it is given, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 3, stride=2)
        self.again, self.never = self.first, nn.Conv2d(1, 1, 1)
        self.norm, self.drop = nn.BatchNorm2d(4), nn.Dropout()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, fail=False):
        self.calls += 1
        y = self.drop(self.norm(self.first(x)))
        x.zero_()
        y = self.second(y.relu_(), output_size=[14, 14])
        random.random()
        if fail:
            raise ValueError("as asked")
        return y * torch.rand(1)


def snapshot(model):
    values = {key: value.clone() for key, value in model.state_dict().items()}
    hooks = [list(module._forward_pre_hooks) for module in model.modules()]
    return values, hooks, [m.training for m in model.modules()], random.getstate(), torch.get_rng_state()


def same(one, other):
    values = all(torch.equal(value, other[0][key]) for key, value in one[0].items())
    return values and one[1:4] == other[1:4] and torch.equal(one[4], other[4])


@pytest.mark.parametrize("fail", [False, True])
def test_inputs_are_recorded_and_the_model_is_as_before(fail):
    model, x = Restless(), torch.randn(1, 3, 8, 8)
    model.drop.eval()
    before, kept = snapshot(model), x.clone()
    names = ["again", "first", "second", "never"]
    if fail:
        with pytest.raises(
            RewriteError, match=r"own forward failed while inputs .* recorded: ValueError: as asked"
        ):
            record_inputs(model, (x, True), names)
    else:
        found = record_inputs(model, {"x": x}, names)
        assert list(found) == ["again", "first", "second"]
        assert torch.equal(found["first"].args[0], kept)
        assert found["first"] is found["again"]
        assert found["second"].kwargs == {"output_size": [14, 14]}
        assert not any(recorded.args[0].requires_grad for recorded in found.values())
    assert same(before, snapshot(model))
    assert torch.equal(x, kept)


def test_what_a_hook_makes_of_an_input_is_what_is_recorded():
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    assert record_inputs(model, torch.ones(1, 1, 2, 2), ["0"])["0"].args[0].sum() == 8


def test_an_unknown_name_is_named():
    with pytest.raises(RewriteError, match="no module 'nowhere' whose inputs could be recorded"):
        record_inputs(Restless(), torch.zeros(1), ["nowhere"])


def test_the_error_is_measured():
    old, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    new = nn.Conv2d(3, 4, 3)
    new.load_state_dict({key: value * 1.01 for key, value in old.state_dict().items()})
    check = checked(old, new, x, tolerance=0.1)
    assert check.ok
    assert check.error == pytest.approx(0.01, rel=1e-3)
    check = checked(old, new, (x,), tolerance=1e-3)
    assert check.problem == "the output's relative error is 1.0e-02, above the tolerance of 1e-03"
    assert not check.ok
    assert checked(old, old, record_inputs(nn.Sequential(old), x, ["0"])["0"], tolerance=0).error == 0


class Gives(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(x)


def worse(x):
    return x.masked_fill(x == 1, float("nan"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x: x[..., 1:], "the output's shape: (1, 2, 3, 3) before, (1, 2, 3, 2) now"),
        (lambda x: x.double(), "the output's dtype: torch.float32 before, torch.float64 now"),
        (
            lambda x: x.to(memory_format=torch.channels_last),
            "the output's strides: (0, 9, 3, 1) before, (0, 1, 6, 2) now",
        ),
        (worse, "the output's relative error is inf, above the tolerance of 1e+00"),
        (lambda x: [x], "only tensors can be compared; the output was Tensor, now list"),
        (lambda x: x.nothing, "the new layer failed: AttributeError: 'Tensor' object has no attribute"),
    ],
)
def test_a_difference_is_named(change, problem):
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    assert problem in checked(nn.Identity(), Gives(change), x, tolerance=1).problem


def test_the_layout_may_be_another_where_that_is_allowed():
    x = torch.randn(1, 2, 3, 3)
    new = Gives(lambda x: x.to(memory_format=torch.channels_last))
    assert checked(nn.Identity(), new, x, tolerance=0, strides=False).ok


def test_numbers_that_are_none_are_compared_as_such():
    x = torch.tensor([1.0, float("nan"), float("inf")])
    assert checked(nn.Identity(), nn.Identity(), x, tolerance=0).ok
    assert checked(nn.Identity(), Gives(lambda x: -x), x, tolerance=9).error == float("inf")
    assert checked(Gives(torch.zeros_like), Gives(torch.ones_like), x, tolerance=9).error == float("inf")


def test_flags_and_buffers_are_as_before():
    old, new = nn.BatchNorm2d(2).train(), nn.BatchNorm2d(2).train()
    x = torch.randn(2, 2, 3, 3)
    assert checked(old, new, x, tolerance=0).ok
    assert old.training
    assert new.training
    assert new.num_batches_tracked == 0
    assert checked(nn.ReLU(inplace=True), nn.ReLU(), x, tolerance=0).ok
    assert x.min() < 0
