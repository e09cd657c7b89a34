"""optimize: within the budget, close to the old model, no worse than simpler choices, all untouched."""

import copy
import importlib
import pickle
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

import archcost
from archcost import ArchcostError, Budget, InputError, ModelError, RewriteError, SpecError
from archcost.optimizing import finishing, selecting, stages
from archcost.optimizing.data import data_of, length
from archcost.optimizing.judging import Judge
from archcost.report.document import Asked
from archcost.report.page.parts import THIS_FILE
from archcost.report.units import si_text
from helpers.trained import Small, agreement, drawn, trained

IMAGES = drawn(192, 2)[0]
TEST = drawn(600, 3)[0]
ONE = IMAGES[:1]
optimize = partial(archcost.optimize, distill=False)
# Half as long, where it is of no matter which rules there are.
quick = partial(optimize, rules=["asymmetric", "low_rank"])


@pytest.fixture(scope="module")
def made():
    """A model in training mode, its state before, and what was made of it."""
    model = trained().train()
    before = copy.deepcopy(model.state_dict())
    found = optimize(model, ONE, budget=Budget(macs=0.4), batches=IMAGES, trials=2)
    assert found.model.training
    found.model.eval()
    return model, before, found


@pytest.fixture(scope="module")
def found(made):
    return made[-1]


def test_within_the_budget_of_the_whole_model_the_outputs_stay(found):
    old = trained()
    macs = archcost.analyze(old, ONE).total.macs
    now = archcost.analyze(found.model, ONE).total.macs
    assert now <= 0.4 * macs
    assert found.reached["macs"] == now / macs
    assert agreement(found.model, old, TEST) > 0.97
    assert found.moved.agreement > 0.95


def test_the_first_line_is_the_answer(found):
    lines = str(found).splitlines()
    assert lines[1].startswith("0.") or lines[1].startswith("Small")
    assert any("of the MACs" in line for line in lines[:3])
    assert "asked for: macs 0.4" in str(found)


def test_the_model_that_was_given_is_unchanged(made):
    model, before, _ = made
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_kept_selection_moves_outputs_least(found):
    scores = [one.score for one in found.trials[1:]]
    assert scores == sorted(scores)
    assert found.moved == found.trials[0].moved


@pytest.mark.slow
def test_it_is_no_worse_than_a_single_rule_at_the_same_budget():
    budget = Budget(macs=0.25)
    best = optimize(trained(), ONE, budget=budget, batches=IMAGES, trials=8)
    single = [
        optimize(trained(), ONE, budget=budget, batches=IMAGES, rules=[rule, "low_rank"])
        for rule in ("bottleneck", "asymmetric")
    ]
    assert best.moved.score <= min(one.moved.score for one in single) * 1.2


@pytest.mark.slow
def test_a_larger_budget_never_keeps_less_within_noise():
    images, kept = drawn(1000, 9)[0], []
    for budget in (0.6, 0.35, 0.2, 0.12):
        found = archcost.optimize(trained(), ONE, budget=budget, batches=IMAGES, trials=3)
        kept.append(agreement(found.model, trained(), images))
    for more, less in pairwise(kept):
        noise = (less * (1 - less) / len(images)) ** 0.5
        assert more >= less - 2 * noise


def test_the_plan_rebuilds_the_model(found):
    plan = archcost.Plan.from_json(found.plan.to_json())
    again = plan.apply(trained(), weights=False)
    again.load_state_dict(found.model.state_dict())
    assert torch.equal(again(TEST), found.model(TEST))
    exec(found.plan.to_python(), {})


def test_it_can_be_saved_and_pickled(found, tmp_path):
    found.save(tmp_path / "found.json")
    read = archcost.load_result(tmp_path / "found.json")
    assert read.to_text() == found.to_text()
    with pytest.raises(ModelError, match="a saved Optimized has no model"):
        _ = read.model
    assert torch.equal(pickle.loads(pickle.dumps(found)).model(TEST), found.model(TEST))


def test_the_page_has_both_totals_each_layer_and_how_to_build_it_again(found, tmp_path):
    found.to_html(tmp_path / "page.html")
    page = found.document(Asked()).page()
    facts = {one.name: one.text for one in page.facts}
    assert facts["Budget"] == f"{found.reached['macs']:.3g} of the MACs"
    assert facts["MACs"] == " → ".join(si_text(one.total.macs) for one in (found.before, found.after))
    pairs, moved, tiles = page.pictures
    assert pairs.names == [one.name for one in found.rows if one.rule]
    saved = sum(b - a for b, a in zip(pairs.before[0].values, pairs.after[0].values, strict=True))
    assert saved == found.before.total.macs - found.after.total.macs
    refitted = [None if one.refitted is None else 100 * one.refitted for one in found.rows]
    assert moved.measures[0].values == refitted
    assert any(refitted)
    assert tiles.measures[0].values[0] == found.after.total.macs
    build, *_ = [one.command for one in page.advice if one.command]
    path = str(tmp_path / "page.html")
    names = {"archcost": archcost, "model": trained()}
    again = eval(build.replace(THIS_FILE, repr(path)), names)
    again.load_state_dict(found.model.state_dict())
    assert torch.equal(again(TEST), found.model(TEST))


def test_the_new_model_trains_a_step_and_exports(found):
    model = copy.deepcopy(found.model).train()
    model(IMAGES).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    exported = torch.export.export(found.model, (ONE,))
    torch.testing.assert_close(exported.module()(ONE), found.model(ONE))


def test_several_budgets_hold_at_once():
    found = quick(
        trained(), ONE, budget={"macs": 0.6, "params": 0.5, "memory": "30 kB"}, batches=IMAGES, trials=1
    )
    assert found.reached["macs"] <= 0.6
    assert found.reached["params"] <= 0.5
    assert found.after.total.param_bytes + found.after.total.buffer_bytes <= 30_000


def test_the_parameters_of_linear_layers_are_spent_too():
    found = quick(trained(), ONE, budget=Budget(params=0.4), batches=IMAGES, trials=1)
    dense = found.model.dense
    assert isinstance(dense, nn.Sequential)
    assert [type(one) for one in dense] == [nn.Linear, nn.Linear]
    assert dense.in_features == 128


def test_an_infeasible_budget_says_the_least_and_what_blocks_it():
    with pytest.raises(RewriteError, match=r"the least reachable is 0\.\d+") as error:
        optimize(trained(), ONE, budget=0.3, exclude=["middle"], batches=IMAGES)
    assert "middle has" in str(error.value)
    assert "it is excluded" in str(error.value)


@pytest.mark.slow
def test_an_error_is_a_budget():
    found = optimize(trained(), ONE, max_error=0.05, batches=IMAGES, trials=1)
    assert 1 - found.moved.agreement <= 0.05
    assert found.reached["macs"] < 0.6


def test_without_data_weights_alone_decide():
    found = optimize(trained(), ONE, budget=0.6)
    assert found.moved is None
    assert "there was no data" in str(found)
    assert agreement(found.model, trained(), TEST) > 0.8


def test_a_distillation_is_kept_where_held_out_outputs_agree_better():
    plain = quick(trained(), ONE, budget=0.3, batches=IMAGES, trials=1)
    found = quick(trained(), ONE, budget=0.3, batches=IMAGES, trials=1, distill=True)
    assert [one.label.endswith("distilled") for one in found.trials] == [True, False]
    assert found.moved.score < plain.moved.score == found.trials[1].moved.score
    assert agreement(found.model, trained(), TEST) >= agreement(plain.model, trained(), TEST)
    assert any("distilled without labels for" in note for note in found.notes)
    assert isinstance(found.model.norm, nn.BatchNorm2d)


def test_the_users_metric_decides():
    asked = []

    def evaluate(model):
        asked.append(model)
        return -float(len(asked))

    found = quick(trained(), ONE, budget=0.5, batches=IMAGES, trials=2, evaluate=evaluate)
    assert found.trials[0].metric == -1.0
    assert found.metric is not None


def test_an_interrupt_gives_back_the_best_so_far():
    calls = []

    def evaluate(model):
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 1.0

    found = quick(trained(), ONE, budget=0.5, batches=IMAGES, trials=2, evaluate=evaluate)
    assert len(found.trials) == 1
    assert any("interrupted after 1" in note for note in found.notes)


@pytest.mark.parametrize("at", [2, 8])
def test_an_interrupt_before_the_end_of_the_first_refit_gives_back_the_best_so_far(monkeypatch, at):
    made, refitted, calls = stages.Task.made, stages.refitted, []

    def stopped(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            raise KeyboardInterrupt
        return made(*args)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.Task, "made", stopped)
    monkeypatch.setattr(stages, "refitted", interrupted if at == 8 else refitted)
    found = quick(trained(), ONE, budget=0.3, batches=IMAGES)
    assert len(found.trials) == 1
    assert all(row.refitted is None for row in found.rows)
    assert any("interrupted after" in note for note in found.notes)
    assert agreement(found.model, trained(), TEST) > 0.5


def test_as_many_selections_are_refitted_as_time_allows(monkeypatch):
    found = quick(trained(), ONE, budget=0.3, batches=IMAGES)
    assert 1 < len(found.trials) <= selecting._REFITTED
    monkeypatch.setattr(selecting, "_REFITTING", 0.0)
    only = quick(trained(), ONE, budget=0.3, batches=IMAGES)
    assert len(only.trials) == 1
    assert only.trials[0].raw.score == min(one.raw.score for one in found.trials)


def test_the_best_is_fitted_to_all_inputs_in_the_end(monkeypatch):
    found = quick(trained(), ONE, budget=0.3, batches=IMAGES, trials=1)
    assert any("then fitted to all of them" in note for note in found.notes)
    monkeypatch.setattr(finishing, "_on_all", lambda task, best: None)
    apart = quick(trained(), ONE, budget=0.3, batches=IMAGES, trials=1)
    assert apart.moved == found.moved  # as held-out inputs told
    pairs = zip(apart.model.parameters(), found.model.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)
    assert agreement(found.model, trained(), TEST) >= agreement(apart.model, trained(), TEST) - 0.005


def test_untrained_weights_are_refused():
    with pytest.raises(ModelError, match="seem untrained"):
        optimize(Small(), ONE, budget=0.5)
    assert optimize(Small().eval(), ONE, budget=0.7, random_weights=True).reached["macs"] <= 0.7


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({}, InputError, "give a budget"),
        ({"budget": {"mac": 0.5}}, InputError, "did you mean"),
        ({"budget": Budget(max_depth=3)}, InputError, "nothing is limited"),
        ({"budget": 0.5, "rules": ["small_kernels"]}, InputError, "it plans bottleneck"),
        ({"budget": 0.5, "exclude": ["nothing"]}, SpecError, "matches 'nothing'"),
        ({"budget": 0.5, "batches": []}, InputError, "there are none"),
        ({"budget": 0.5, "batches": "no.npz"}, InputError, "is no file of archcost.calibrate"),
        ({"max_error": 0.1}, InputError, "give batches"),
    ],
)
def test_wrong_arguments_say_what_to_do(arguments, error, said):
    with pytest.raises(error, match=said):
        optimize(trained(), ONE, **arguments)


class Structured(Small):
    """Outputs of every structure: a dict with a map, a tuple, and a number."""

    def forward(self, x):
        y = super().forward(x)
        return {"classes": y, "more": (self.first(x), 3), "none": None}


def test_outputs_of_any_structure_are_compared():
    model = Structured()
    model.load_state_dict(trained().state_dict())
    found = quick(model.eval(), ONE, budget=0.5, batches=list(IMAGES.split(32)), trials=1)
    assert found.moved.agreement > 0.9
    assert set(found.model(ONE)) == {"classes", "more", "none"}


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.again = self.twice
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.twice(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.again(x)).mean((2, 3)))


def test_a_shared_module_is_one_decision():
    found = optimize(Shared().eval(), ONE, budget=0.5, batches=IMAGES, random_weights=True, trials=1)
    assert found.model.twice is found.model.again
    assert [row.name for row in found.rows].count("twice") == 1
    assert found.reached["macs"] <= 0.5


def test_large_covariances_are_collected_in_parts_and_said():
    found = optimize(trained(), ONE, budget=0.4, batches=IMAGES, trials=1, memory=2 * 8 * 200 * 200)
    assert any("passes over the data" in note for note in found.notes)
    assert any("sampled patches" in note for note in found.notes)
    assert agreement(found.model, trained(), TEST) > 0.95


def test_errors_are_archcost_errors():
    with pytest.raises(ArchcostError):
        optimize(nn.Identity(), ONE, budget=0.5)


def test_a_model_that_is_of_no_use_is_refused_with_the_layers_that_lose_most(monkeypatch):
    module = importlib.import_module("archcost.optimizing.optimize")
    monkeypatch.setattr(module, "_USELESS", -1.0)
    asked = {"budget": 0.3, "batches": IMAGES, "trials": 1, "refit": False}
    with pytest.raises(RewriteError, match=r"keep their class in .* % only.*largest errors are in .*middle"):
        quick(trained(), ONE, **asked)
    assert quick(trained(), ONE, **asked, max_error=1.0).reached["macs"] <= 0.3


def test_a_refit_that_moves_held_out_outputs_further_is_taken_back(monkeypatch):
    def worse(old, new, *args, **kwargs):
        with torch.no_grad():
            for parameter in new.parameters():
                parameter.mul_(0.7)
        return {"conv": None}

    plain = quick(trained(), ONE, budget=0.3, batches=IMAGES, trials=1, refit=False, distill=False)
    monkeypatch.setattr(stages, "refitted", worse)
    found = quick(trained(), ONE, budget=0.3, batches=IMAGES, trials=1, distill=False)
    assert found.moved == found.trials[0].raw == plain.moved
    assert all(row.refitted is None for row in found.rows)


def test_outputs_that_are_no_numbers_have_moved_furthest():
    data, broken = data_of(IMAGES), trained()
    judge = Judge(trained(), data.held_out, data.blended)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    sound, lost = judge.verdict(trained()), judge.verdict(broken)
    assert judge.further(lost, sound) == float("inf")
    assert judge.further(sound, lost) == 0.0


def test_blends_are_judged_beside_held_out_inputs_and_nothing_is_said_of_them():
    data = data_of(IMAGES)
    assert sum(map(length, data.blended)) == sum(map(length, data.held_out))
    first, blended = data.fitted[0], data.blended[0]
    assert torch.allclose(blended[1], 0.8 * first[1] + 0.2 * first[0])
    judge = Judge(trained(), data.held_out, data.blended)
    found = judge.verdict(trained())
    assert found.score == found.moved.error == 0.0
    assert found.moved.positions == sum(map(length, data.held_out))
    assert data_of([(IMAGES[:8],), (IMAGES[8:16],)] * 4).blended == ()
