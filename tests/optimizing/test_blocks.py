"""Blocks of branches merged before all else: exact, shown, skippable, and rebuilt by the plan."""

import pytest
import timm
import torch
from torch import nn

import archcost
from archcost import Budget
from archcost.optimizing.blocks import merged
from archcost.trace.call import Call
from helpers.graphs import settled, worst


class Block(nn.Module):
    """RepVGG's: a 3x3, a 1x1 and the identity, each with its norm, summed."""

    def __init__(self, ins, outs):
        super().__init__()
        self.wide, self.wide_norm = nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs)
        self.narrow, self.narrow_norm = nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs)
        self.same = nn.BatchNorm2d(ins) if ins == outs else None

    def forward(self, x):
        y = self.wide_norm(self.wide(x)) + self.narrow_norm(self.narrow(x))
        return torch.relu(y if self.same is None else y + self.same(x))


def network():
    torch.manual_seed(0)
    body = [Block(3, 16), Block(16, 16), nn.MaxPool2d(2), Block(16, 24)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 6))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
    return model.eval()


IMAGES = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(1))
ONE = IMAGES[:1]


def optimized(model, budget, **options):
    given = {"random_weights": True, "distill": False, "trials": 1, **options}
    return archcost.optimize(model, ONE, budget=Budget(macs=budget), **given)


def test_a_budget_that_merging_alone_keeps_is_kept_exactly():
    model = network()
    found = optimized(model, 0.95)
    assert (len(found.plan.proposals), len(found.plan.after)) == (0, 3)
    assert found.reached["macs"] < 0.95
    torch.testing.assert_close(found.model(IMAGES), model(IMAGES))
    assert "3 blocks merged, no layer exchanged" in str(found)
    assert any("merged first, exactly: the branches of 0, 1, 3" in note for note in found.notes)
    assert [row.rule for row in found.rows][:3] == ["merge"] * 3


@pytest.fixture(scope="module")
def found():
    return optimized(network(), 0.5, batches=IMAGES)


def test_shares_are_of_the_model_with_its_branches(found):
    model = network()
    macs = archcost.analyze(model, ONE).total.macs
    assert found.before.total.macs == macs
    assert archcost.analyze(found.model, ONE).total.macs <= 0.5 * macs
    assert any(row.rule and row.rule.startswith("merge, ") for row in found.rows)


def test_the_plan_merges_and_exchanges_again(found):
    model = network()
    plan = archcost.Plan.from_json(found.plan.to_json())
    assert plan == found.plan
    again = plan.apply(network(), weights=False)
    again.load_state_dict(found.model.state_dict())
    assert torch.equal(again(IMAGES), found.model(IMAGES))
    made = {}
    exec(plan.to_python(), made)
    assert list(made["first_layers"](model)) == ["0", "1", "3"]
    assert len(made["new_layers"](model)) == len(plan.proposals)
    applied, before = plan.apply(model, inplace=True, weights=False), [*network().state_dict()]
    assert [*model.state_dict()] == [*found.model.state_dict()]
    applied.undo()
    assert [*model.state_dict()] == before


def test_it_can_be_left_out_for_all_or_for_some():
    assert optimized(network(), 0.8, merge=False).plan.after is None
    found = optimized(network(), 1.0, exclude=["1", "3.wide"])
    assert [one.name for one in found.plan.after] == ["0"]


def test_training_mode_stays_as_it_was():
    model = network().train()
    model[1].eval()
    found = optimized(model, 0.95)
    assert found.model.training
    assert found.model[0].training
    assert not any(part.training for part in found.model[1].modules())
    assert model[0].training


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "blocks", "most"),
    [("mobileone_s0", 64, 43, 0.3), ("repvgg_a0", 64, 22, 0.91), ("fastvit_t8", 256, 20, 0.995)],
)
def test_published_blocks_are_merged_exactly(name, side, blocks, most):
    model, x = settled(timm.create_model(name)), torch.randn(1, 3, side, side)
    analysis = archcost.analyze(model, x)
    found = merged(analysis, Call.of(x), "refuse", (), True)
    assert len(found.plan) == blocks
    assert found.analysis.total.macs < most * analysis.total.macs
    with torch.inference_mode():
        expected, made = model(x), found.survey.model(x)
    assert worst(made, expected) < 1e-5


@pytest.mark.parametrize("model", [nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())])
def test_a_model_without_such_blocks_is_the_one_that_was_given(model):
    analysis = archcost.analyze(model.eval(), ONE)
    found = merged(analysis, Call.of(ONE), "refuse", (), True)
    assert found.plan is None
    assert found.survey.model is model
