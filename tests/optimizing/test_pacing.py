"""Budgets of time: candidates' times become those that they take inside of the model."""

from dataclasses import replace

import pytest
import torch

import archcost
from archcost import Budget, RewriteError
from archcost.optimizing import pacing
from archcost.optimizing.making import Making
from archcost.optimizing.optimize import task_of
from archcost.optimizing.planning import Planned
from archcost.optimizing.timing import Inside, inside
from archcost.trace.call import Call
from helpers.trained import drawn, trained

IMAGES = drawn(64, 2)[0]
ONE = IMAGES[:1]
OUTSIDE = 0.004


def seconds_of(module):
    """A machine whose layers take a microsecond for each weight."""
    return 1e-6 * sum(weight.numel() for weight in module.parameters())


def machine(models, names, call):
    """What the machine measures inside of models."""
    found = {}
    for key, model in models.items():
        layers = {name: seconds_of(model.get_submodule(name)) for name in names}
        found[key] = Inside(sum(layers.values()) + OUTSIDE, layers)
    return found


@pytest.fixture
def making(monkeypatch):
    """A choice by times that are half of what candidates take inside of the model."""
    monkeypatch.setattr(pacing, "inside", machine)
    model = trained()
    task = task_of(model, ONE, None, "refuse", False, None, (), None, 2**29, False)
    planned = task.planned(False)
    own = {one.name: seconds_of(model.get_submodule(one.name)) for one in task.layers}
    whole = sum(own.values()) + OUTSIDE
    candidates = {
        name: [replace(one, seconds=0.5e-6 * one.params) for one in all_]
        for name, all_ in planned.candidates.items()
    }
    totals = {**planned.totals, "latency": whole}
    planned = Planned(totals, totals, candidates, planned.response, own, whole)
    return Making(task, planned, None, True, 1)


def test_what_is_promised_is_what_the_model_takes(making):
    limits = making.planned.limits(Budget(latency=0.5))
    (chosen,) = making.selections(limits)
    made = pacing.built(making.task, chosen)
    names = list(making.planned.seconds)
    takes = machine({"": made}, names, None)[""].whole
    assert chosen.spends["latency"] == pytest.approx(takes)
    assert takes <= limits.most["latency"] * 1.03
    scaled = {
        family: one.seconds / (0.5e-6 * one.params)
        for one in chosen.candidates
        for family in [pacing.family_of(one)]
    }
    assert all(1.5 < factor < 2.5 for factor in scaled.values())


def test_what_seems_too_slow_may_be_fast_enough_inside_of_the_model(making):
    slow = {
        name: [replace(one, seconds=20e-6 * one.params) for one in all_]
        for name, all_ in making.planned.candidates.items()
    }
    making.planned.candidates = slow
    limits = making.planned.limits(Budget(latency=0.5))
    with pytest.raises(RewriteError, match=r"latency=0.5 of the model; the least reachable is \d"):
        making.choosing(limits, making.planned).within("", lambda one: one.error)
    (chosen,) = making.selections(limits)
    assert chosen.spends["latency"] <= 0.515 * limits.given["latency"]


def test_selections_that_take_too_long_are_left_out(making):
    limits = making.planned.limits(Budget(latency=0.9))
    choosing = making.choosing(limits, making.planned)
    large, small = (
        choosing.within("", choosing.sensitive),
        making.choosing(making.planned.limits(Budget(latency=0.4)), making.planned).within(
            "", choosing.sensitive
        ),
    )
    kept = pacing.kept_in_time(making.task, making.planned, 0.7 * limits.given["latency"], [large, small])
    assert [one.key for one in kept] == [small.key]
    assert len(pacing.kept_in_time(making.task, making.planned, 0.0, [large, small])) == 1


def test_layers_are_timed_inside_of_the_model():
    model = trained()
    found = inside({"one": model, "two": model}, ["first", "dense"], Call.of(ONE), 0.01)
    assert list(found) == ["one", "two"]
    assert all(0 < value < found["one"].whole for value in found["one"].layers.values())
    assert 0 < found["one"].rest < found["one"].whole
    assert not model.first._forward_hooks
    assert not model.first._forward_pre_hooks


@pytest.mark.slow
def test_a_budget_of_time_is_reported_as_it_was_measured():
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(IMAGES, size=48)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 64, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(64, 64, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 8),
    ).eval()
    found = archcost.optimize(
        model,
        images[:1],
        budget=Budget(latency=0.6),
        batches=images[:32],
        trials=1,
        distill=False,
        random_weights=True,
    )
    assert found.reached["latency"] < 0.8
    note = next(one for one in found.notes if one.startswith("time: "))
    assert "of the old promised" in note
    assert "measured in turns" in note
