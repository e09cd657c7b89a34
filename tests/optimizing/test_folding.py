"""Norms folded into convolutions while a model is planned: the same function there and back."""

import copy

import pytest
import torch
from torch import nn

import archcost
from archcost.optimizing.folding import folded
from archcost.rewriting.survey.survey import survey_of
from helpers.trained import drawn, trained

IMAGES = drawn(64, 4)[0]


class Norms(nn.Module):
    """Convolutions with and without bias before norms of every kind, and norms that stay."""

    def __init__(self):
        super().__init__()
        self.plain, self.plain_norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.biased, self.biased_norm = nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8)
        self.bare, self.bare_norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, affine=False)
        self.late, self.shared = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = torch.relu(self.plain_norm(self.plain(x)))
        x = torch.relu(self.biased_norm(self.biased(x)))
        x = self.shared(torch.relu(self.bare_norm(self.bare(x))))
        return self.head(torch.relu(self.shared(self.late(x)))).mean((2, 3))


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = Norms()
    for _ in range(3):
        made(torch.randn(16, 1, 10, 10) + 0.5)
    for name, one in made.named_parameters():
        if "norm" in name:
            nn.init.normal_(one)
    made.plain_norm.weight.data[2] = 0.0
    return made


def fold(model):
    return folded(survey_of(archcost.analyze(model, IMAGES[:1])))


def test_the_folded_model_is_the_same_function_with_the_norms_in_the_convolutions(model):
    found = fold(model.train())
    assert found.norms == {"plain": "plain_norm", "biased": "biased_norm", "bare": "bare_norm"}
    assert model.training
    torch.testing.assert_close(found.model(IMAGES), model.eval()(IMAGES), rtol=1e-4, atol=1e-5)
    assert isinstance(found.model.plain_norm, nn.Identity)
    by_name = {one.name: one for one in found.layers}
    assert by_name["plain"].params == found.model.plain.weight.numel() + 8
    assert by_name["biased"].params == found.old["biased"].params


def test_undone_it_is_the_model_that_was_given(model):
    found = fold(model.train())
    back = found.undone(copy.deepcopy(found.model))
    assert back.training
    assert back.plain.bias is None
    old, new = model.state_dict(), back.state_dict()
    assert list(old) == list(new)
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_changed_weights_and_biases_stay_the_same_function_when_it_is_undone(model):
    found = fold(model)
    work = copy.deepcopy(found.model)
    with torch.no_grad():
        for name in found.norms:
            conv = work.get_submodule(name)
            conv.weight.add_(0.1 * torch.randn_like(conv.weight))
            conv.bias.add_(0.1 * torch.randn_like(conv.bias))
    wanted = work(IMAGES)
    back = found.undone(work).eval()
    torch.testing.assert_close(back(IMAGES), wanted, rtol=1e-4, atol=1e-5)
    assert list(back.state_dict()) == list(model.state_dict())
    assert back.plain.weight[2].abs().max() < 10  # its norm's factor was 0


def test_a_model_without_such_norms_is_not_copied():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)).eval()
    found = fold(net)
    assert found.model is net
    assert found.undone(net) is net


def test_optimize_gives_the_norms_back_and_says_so():
    old = trained()
    rules = ["asymmetric", "low_rank"]
    found = archcost.optimize(
        old, IMAGES[:1], budget=0.5, batches=IMAGES, trials=1, rules=rules, distill=False
    )
    assert isinstance(found.model.norm, nn.BatchNorm2d)
    assert any("1 batch normalisation" in note for note in found.notes)
    assert found.after.total.params == sum(one.numel() for one in found.model.parameters())
