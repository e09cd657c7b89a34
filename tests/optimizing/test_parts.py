"""The parts of optimize: spectra against weights, the knapsack against brute force, statistics, recover."""

from copy import deepcopy
from dataclasses import replace
from itertools import product

import pytest
import torch

import archcost
from archcost import InputError
from archcost.optimizing import spectra, stages
from archcost.optimizing.allocation import Item, Unreachable, chosen
from archcost.optimizing.candidates import Candidate, candidates_of
from archcost.optimizing.correcting import error_of
from archcost.optimizing.data import data_of
from archcost.optimizing.layers import layers_of
from archcost.optimizing.sensitivity import Response
from archcost.optimizing.statistics import CEILING, Sampled, Whole, collected
from archcost.optimizing.verify import each, moved
from archcost.report.document import Asked
from archcost.rewriting.survey.survey import survey_of
from helpers.trained import drawn, trained

IMAGES = drawn(128, 5)[0]


@pytest.fixture(scope="module")
def layers():
    model = trained()
    return model, layers_of(survey_of(archcost.analyze(model, IMAGES[:1])))


def test_layers_are_in_order_of_execution_with_their_costs(layers):
    model, found = layers
    assert [one.name for one in found] == ["first", "middle", "last", "dense", "head"]
    assert [one.linear for one in found] == [False, False, False, True, True]
    total = archcost.analyze(model, IMAGES[:1]).total.macs
    assert sum(one.macs for one in found) == total


@pytest.mark.parametrize("name", ["middle", "last", "dense"])
def test_the_spectrum_is_the_error_of_the_weights(layers, name):
    model, found = layers
    layer = next(one for one in found if one.name == name)
    seen = collected(model, [name], list(IMAGES.split(32)), progress=False)[name]
    exact = [
        one
        for one in candidates_of(layer, seen)
        if one.rule == "low_rank" or one.options.get("form") == "out"
    ]
    assert len(exact) > 5
    for one in exact[::3]:
        assert error_of(layer, one, seen) == pytest.approx(one.error, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kind", ["noise", "decay", "outliers"])
def test_the_spectrum_of_a_large_linear_layer_is_estimated(kind, monkeypatch):
    random = torch.Generator().manual_seed(3)
    weight = torch.randn(500, 900, generator=random)
    if kind == "decay":
        weight = torch.linalg.svd(weight, full_matrices=False)[2] / torch.arange(1, 501)[:, None].sqrt()
    if kind == "outliers":
        weight += 3 * torch.randn(500, 5, generator=random) @ torch.randn(5, 900, generator=random)
    (exact,), _ = spectra.curves(weight[None, ..., None], None, linear=True)
    monkeypatch.setattr(spectra, "_ESTIMATED", 499)
    (quick,), _ = spectra.curves(weight[None, ..., None], None, linear=True)
    assert quick.lost[[0, -1]].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert bool((quick.lost.diff() <= 1e-12).all())
    kept = exact.lost > 0.02
    assert bool(((quick.lost / exact.lost)[kept] - 1).abs().max() < 0.1)
    assert not torch.equal(quick.lost, exact.lost)


@pytest.mark.parametrize("rank", [0, 3])
def test_an_estimated_spectrum_of_few_directions_ends_with_them(rank):
    random = torch.Generator().manual_seed(3)
    weight = torch.randn(200, rank, generator=random) @ torch.randn(rank, 300, generator=random)
    lost = spectra.estimated(weight)
    assert lost.isfinite().all()
    assert float(lost[rank:].max()) < 1e-6


@pytest.mark.parametrize("name", ["middle", "last"])
def test_costs_of_candidates_are_those_of_their_layers(layers, name):
    from archcost.optimizing.candidates import costs_of, replacement_of

    _, found = layers
    layer = next(one for one in found if one.name == name)
    made = candidates_of(layer, None)
    assert {one.rule for one in made} == {"bottleneck", "asymmetric", "separable"}
    for one in made[::5]:
        assert costs_of(layer, replacement_of(layer, one.rule, one.options)) == (one.macs, one.params)


@pytest.mark.parametrize("name", ["middle", "last"])
def test_two_ranks_lose_about_what_their_spectrum_says_without_data(layers, name):
    _, found = layers
    layer = next(one for one in found if one.name == name)
    both = [one for one in candidates_of(layer, None) if one.options.get("form") == "both"]
    for one in both[::3]:
        assert error_of(layer, one, None) == pytest.approx(one.error, rel=0.06, abs=1e-7)


def test_the_plan_from_weights_alone_loses_what_that_of_weights_really_computed_does(layers, monkeypatch):
    by_name = {one.name: one for one in layers[1]}

    def lost():
        plan = archcost.optimize(trained(), IMAGES[:1], budget=0.4).plan
        return [
            error_of(by_name[one.name], Candidate(one.name, one.rule, one.options, 0, 0, 0.0), None)
            for one in plan
        ]

    quick = lost()
    monkeypatch.setattr(
        stages,
        "corrected",
        lambda layer, found, *_: [replace(one, error=error_of(layer, one, None)) for one in found],
    )
    slow = lost()
    assert len(quick) == len(slow) > 1
    assert sum(quick) == pytest.approx(sum(slow), rel=0.05)


def test_sampled_patches_agree_with_the_covariance(layers):
    model, _ = layers
    pieces = list(IMAGES.split(32))
    whole = collected(model, ["middle"], pieces, progress=False)["middle"]
    sampled = collected(model, ["middle"], pieces, ceiling=300_000, progress=False)["middle"]
    assert isinstance(whole, Whole)
    assert isinstance(sampled, Sampled)
    matrix = torch.randn(1, 4, 144, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sampled.through(matrix), whole.through(matrix), rtol=0.4, atol=2.0)
    torch.testing.assert_close(sampled.marginal((0,)), whole.marginal((0,)), rtol=0.4, atol=0.2)
    assert CEILING > 300_000


def test_the_choice_is_that_of_trying_everything():
    generator = torch.Generator().manual_seed(1)
    layers = [
        [Item((float(a), float(b)), float(e)) for a, b, e in torch.rand(4, 3, generator=generator)]
        for _ in range(4)
    ]
    limits = (1.9, 2.1)

    def error(pick):
        return sum(layer[n].error for layer, n in zip(layers, pick, strict=True))

    def fits(pick):
        spent = [sum(layer[n].spends[at] for layer, n in zip(layers, pick, strict=True)) for at in (0, 1)]
        return all(a <= b for a, b in zip(spent, limits, strict=True))

    best = min((p for p in product(range(4), repeat=4) if fits(p)), key=error)
    assert error(chosen(layers, limits)) == pytest.approx(error(best))
    with pytest.raises(Unreachable):
        chosen(layers, (0.0, 5.0))


def test_a_response_goes_through_what_was_measured():
    response = Response(0.0225, 1.0)
    assert response(0.0225 / 4) == pytest.approx(0.25)
    response.add(0.001, 0.5)
    assert response(0.001) == pytest.approx(0.5)
    assert 0.5 < response(0.005) < 1.0
    assert response(0.0) == 0.0


def test_a_tensor_is_one_batch_of_several_inputs():
    data = data_of(IMAGES)
    assert data.apart
    assert data.inputs == 128
    assert sum(map(len, data.held_out)) == 32
    assert not data_of([(IMAGES[:4],)]).apart


def test_moved_knows_classes_maps_and_numbers():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    other = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0]])
    found = moved([[other]], [[logits]])
    assert found.agreement == 0.5
    assert found.kl > 0
    assert moved([[logits]], [[logits]]).score == 0
    numbers = moved([[torch.full((4, 1), 1.1)]], [[torch.ones(4, 1)]])
    assert numbers.agreement is None
    assert numbers.error == pytest.approx(0.1, rel=1e-4)
    assert moved([[logits[:1]]], [[logits]]).error == float("inf")
    assert (found.meaning, numbers.meaning) == ("less than 92 %", None)
    assert replace(found, kl=0.004).meaning == "99 % or more"
    boxes = torch.randn(2, 4)
    both = moved([[other.softmax(1), -boxes]], [[logits.softmax(1), boxes]])
    assert (both.agreement, both.positions) == (0.5, 2)  # of the probabilities alone
    assert float(each([[other, boxes]], [[logits, boxes]]).mean()) == pytest.approx(found.kl / 2)
    maps = torch.randn(2, 5, 3, 3)
    assert moved([[maps]], [[maps]]).positions == 18


@pytest.mark.slow
def test_a_calibration_serves_in_place_of_batches(tmp_path):
    path = tmp_path / "calibration.npz"
    made = archcost.calibrate(trained(), IMAGES, path)
    assert repr(made).startswith("<Calibration of 5 layers of a Small and 128 inputs")
    one, other = (
        archcost.optimize(trained(), IMAGES[:1], budget=0.4, batches=given, trials=1, distill=False)
        for given in (made, str(path))
    )
    assert one.moved == other.moved
    assert one.moved.agreement > 0.9
    alone = archcost.calibrate(trained(), IMAGES, path, keep_inputs=0)
    assert alone.inputs is None
    assert archcost.optimize(trained(), IMAGES[:1], budget=0.4, batches=alone).moved is None


@pytest.mark.slow
def test_a_frontier_has_a_plan_a_point_and_is_monotone(tmp_path):
    found = archcost.frontier(trained(), IMAGES[:1], batches=IMAGES, points=(0.8, 0.4), trials=1)
    ours = [one for one in found if one.choice == "optimize"]
    assert [one.asked for one in ours] == [0.8, 0.4]
    assert all(one.reached <= one.asked for one in found)
    assert ours[0].moved.score <= ours[1].moved.score
    assert {one.choice for one in found} == {"optimize", "BALF-like", "uniform"}
    again = ours[1].plan.apply(trained())
    macs = archcost.analyze(again, IMAGES[:1]).total.macs
    assert macs <= 0.4 * archcost.analyze(trained(), IMAGES[:1]).total.macs
    found.save(tmp_path / "frontier.json")
    assert archcost.load_result(tmp_path / "frontier.json").to_text() == found.to_text()
    page = found.document(Asked()).page()
    (drawn,) = page.pictures
    assert drawn.y == [pytest.approx(100 * one.error) for one in found]
    assert set(drawn.groups) == {one.choice for one in found}
    ranked = [one for one in page.advice if one.share is not None]
    assert ranked[0].share == 1 - min(one.reached for one in ours)
    assert page.advice[-1].command.startswith("archcost.optimize(model, budget=archcost.Budget(macs=0.")
    pytest.importorskip("matplotlib")
    archcost.plot.frontier(found, path=tmp_path / "frontier.svg")
    assert (tmp_path / "frontier.svg").stat().st_size > 1000


@pytest.fixture(scope="module")
def rough():
    """A model whose new layers were not refitted."""
    quick = {"trials": 1, "refit": False, "distill": False, "rules": ["asymmetric", "low_rank"]}
    return archcost.optimize(trained(), IMAGES[:1], budget=0.3, batches=IMAGES, **quick).model


@pytest.mark.parametrize("method", ["least_squares", "distill"])
def test_recover_comes_closer_or_gives_the_model_back(rough, method):
    old, new = trained(), deepcopy(rough)
    found = archcost.recover(new, old, IMAGES, method, epochs=3)
    assert found.kept
    assert found.after.score < found.before.score
    assert all(not p.grad_fn for p in found.model.parameters())
    assert "before" in str(found)


@pytest.mark.slow
def test_a_distillation_goes_on_from_its_checkpoint(rough, tmp_path):
    old, new = trained(), deepcopy(rough)
    path = tmp_path / "check.pt"
    whole = archcost.recover(new, old, IMAGES, "distill", epochs=2)
    archcost.recover(new, old, IMAGES, "distill", epochs=2, checkpoint=path)
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 2
    again = archcost.recover(new, old, IMAGES, "distill", epochs=2, checkpoint=path)
    assert again.after == whole.after
    torch.save({"model": {}}, path)
    with pytest.raises(InputError, match="is no checkpoint of this model"):
        archcost.recover(new, old, IMAGES, "distill", checkpoint=path)
