"""The advice of a page: its commands run and give what it says, and it ranks by what is known."""

import json
import re
import shlex
from dataclasses import replace

import pytest
import torch
from golden import made_up
from golden.models import branches
from torch import nn

import archcost
from archcost.cli import main
from archcost.engine.acceleration import REST, StepTime
from archcost.latency.reports.pictures import facts_of
from archcost.report.document import Asked
from archcost.report.page.build import page as page_of
from archcost.report.units import si_text
from archcost.rewriting.proposal import best_of

NET = """from torch import nn
def net():
    first, second, third = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 5), nn.Conv2d(16, 16, 5)
    return nn.Sequential(first, nn.ReLU(), second, third)
"""
SIZE = (1, 8, 16, 16)


@pytest.fixture
def spec(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCHCOST_STORE", ":memory:")
    return "net.py:net"


def data(page):
    """The contents of a page."""
    return json.loads(re.search(r'id="archcost-page">([^<]*)<', page)[1])


def gain_of(page):
    """The MACs that a page says the proposals come to."""
    (text,) = [fact["text"] for fact in page["facts"] if fact["name"] == "With the proposals"]
    return re.fullmatch(r"\S+ \S+ → (\S+ \S+) MACs", text)[1]


def read(path):
    return data(path.read_text())


def test_command_of_the_page_makes_the_model_that_it_says(spec, tmp_path, capsys):
    assert main(["report", spec, "--input-size", "1,8,16,16", "-o", "a page.html"]) == 0
    page = read(tmp_path / "a page.html")
    commands = {one["head"]: shlex.split(one["command"]) for one in page["advice"] if one["command"]}
    assert list(commands) == ["To have it", "To time them", "Faster as it is"]
    assert main(commands["To have it"][1:]) == 0
    assert "MACs" in capsys.readouterr().out
    model = archcost.Plan.from_json("new.plan.json").apply(archcost.load(spec).model, weights=False)
    model.load_state_dict(torch.load("new.pt", weights_only=True))
    assert si_text(archcost.analyze(model, input_size=SIZE).total.macs) == gain_of(page)
    assert main([*commands["To time them"][1:], "--seconds", "1", "--no-errors", "--format", "csv"]) == 0
    assert main([*commands["Faster as it is"][1:], "--seconds", "0.1", "--format", "csv"]) == 0


def test_python_of_the_page_makes_the_model_that_it_says(spec, tmp_path):
    model = archcost.load(spec).model
    archcost.propose(model, input_size=SIZE, errors=False, store=False).to_html(tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    (line,) = [one["command"] for one in page["advice"] if one["head"] == "To have it"]
    made = eval(line, {"archcost": archcost, "model": model})
    assert si_text(archcost.analyze(made, input_size=SIZE).total.macs) == gain_of(page)


def test_commands_of_an_analysis_name_its_model_and_input(spec):
    given = archcost.analyze(spec, input_size=SIZE).document(Asked()).page()
    assert [one.command for one in given.advice] == [
        f"archcost {name} net.py:net --input-size 1,8,16,16" for name in ("propose", "accelerate")
    ]
    own = archcost.analyze(nn.Conv2d(3, 4, 3), input_size=(1, 3, 8, 8)).document(Asked()).page()
    assert own.advice[0].command == "archcost propose SPEC"


def test_a_file_without_proposals_is_refused(spec, capsys):
    archcost.analyze(spec, input_size=SIZE).save("saved.json")
    assert main(["rewrite", spec, "--proposals", "saved.json", "-o", "new.pt"]) == 2
    assert (
        "saved.json holds no proposals: archcost propose --save, or archcost report"
        in capsys.readouterr().err
    )


def test_where_errors_are_not_known_the_proposal_closest_to_what_was_asked_is_best(spec):
    found = archcost.propose(spec, input_size=SIZE, errors=False, store=False)
    for one in found.best():
        within = [other.macs_ratio for other in found[one.name] if other.macs_ratio <= 0.525]
        assert one.exact or one.macs_ratio == max(within)
    least = {one.name: one for one in best_of(found)}  # nothing asked for: the fewest
    assert all(least[one.name].macs_ratio <= one.macs_ratio for one in found.best())


def test_of_a_measured_model_the_page_ranks_by_time():
    times = made_up.measured()
    found = archcost.propose(branches(), input_size=made_up.SIZE, errors=False, store=False)
    timed = replace(found, timed=replace(times, analysis=None, notes=("no roofline here",)))
    page = data(page_of(timed.document(Asked(full=True)), timed))
    assert [one["head"] for one in page["costly"]] == [
        one.head for one in times.document(Asked()).page().costly
    ]
    faster, *ranked = [one for one in page["advice"] if one["share"] is not None]
    assert faster["head"] == "Every convolution by its fastest path"
    before = sum(one.as_run_ms or one.native_ms for one in times.layers if one.native_ms and one.best_ms)
    saved = before - sum(one.best_ms for one in times.layers if one.native_ms and one.best_ms)
    assert faster["share"] == saved / (1e3 * times.context.end_to_end.median_s)
    assert faster["command"].startswith("archcost accelerate ")
    assert [one["share"] for one in ranked] == sorted((one["share"] for one in ranked), reverse=True)
    own = {call.name: 1e3 * call.median_s for call in times.context.calls}
    assert f"now {own[ranked[0]['head']]:.3f} ms" in ranked[0]["text"]
    notes = dict(page["notes"])
    assert notes["Times"].startswith("those of the new layers are not measured, only the model's own")
    assert ["Note", "no roofline here"] in page["notes"]
    assert not any("Skipped" in head for head, _ in page["notes"])  # folded away
    assert any("Skipped" in head for head, _ in page["footnotes"])


def test_times_of_some_convolutions_are_not_shown_as_those_of_all():
    found = made_up.measured()
    (fact,) = [one for one in facts_of(found, None) if one.name == "Convolutions alone"]
    timed = sum(one.best_ms is not None for one in found.layers)
    assert timed < len(found.layers)
    assert fact.text == f"{timed} of {len(found.layers)} timed"


def test_what_attention_sees_is_said_to_be_all():
    analysis = archcost.analyze("torchvision:vit_b_16")
    (fact,) = [one for one in analysis.document(Asked()).page().facts if one.name == "Receptive field"]
    assert (fact.text, fact.remark) == ("all", "of an input of 224; 16 pixels at conv_proj")
    assert "receptive field all (16)" in analysis.to_text()
    assert "receptive field 427" in archcost.analyze("torchvision:resnet50").to_text()


@pytest.mark.parametrize(
    ("modules", "name"),
    [
        (("a.0", "a.1", "a.2"), "a.0 + 1 + 2"),
        (("conv", "norm"), "conv + norm"),
        (("a.b.0.0", "a.b.0.1", "a.b.1", "a.b"), "a.b (4 modules)"),
        (("a.mlp.3", "a"), "a (mlp.3, its own operations)"),
        (("a", "b.c", ""), "a + b.c + (the model)"),
        (("a", "b.c", "d", "e"), "a + 3 more modules"),
        (("",), "(the model)"),
        ((), "-"),
    ],
)
def test_step_of_many_modules_is_named_after_what_they_lie_in(modules, name):
    assert StepTime(modules, "addition", "kernel", (1,), None, None, None).name == name


def test_of_many_steps_the_slowest_are_shown_first():
    whole = made_up.acceleration()
    steps = [replace(whole.steps[0], modules=(f"a.{at}",), ms=float(at)) for at in range(40)]
    found = replace(whole, steps=(*steps, whole.steps[-1]))
    assert found.steps[-1].operator == REST
    text = found.to_text()
    assert "(20 other steps)" in text
    assert "a.39" in text
    assert "a.3 " not in text
    assert "a.3 " in found.to_text(full=True)
    assert len(found.to_pandas()) == 41


def test_pages_of_new_models_say_what_costs_most_now_and_how_to_have_them(tmp_path):
    fast = made_up.acceleration().document(Asked()).page()
    assert [one.head for one in fast.costly] == ["blocks.0.conv + norm + act", "(the rest)", "mask"]
    assert [one.share for one in fast.costly] == [0.6, 0.3, 0.1]
    assert fast.advice[0].command == "archcost.accelerate(model, inputs)"
    assert not made_up.acceleration(changed=False).document(Asked()).page().advice
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 5))
    found = archcost.rewrite(model, input_size=(1, 3, 16, 16), rules=["asymmetric"])
    found.to_html(tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    macs = found.after.total.macs
    most = max(one.macs for one in found.after.modules if one.type_name == "Conv2d")
    assert page["costly"][0]["text"].startswith(si_text(most))
    assert page["costly"][0]["share"] == most / macs
    assert macs < found.before.total.macs
    made = eval(page["advice"][0]["command"], {"archcost": archcost, "model": model})
    made.load_state_dict(found.model.state_dict())
    assert archcost.analyze(made, input_size=(1, 3, 16, 16)).total.macs == macs
    table = next(one for one in page["tables"] if one["name"] == "layers")
    assert [one["head"] for one in table["columns"]][:2] == ["New layer", "Was"]
