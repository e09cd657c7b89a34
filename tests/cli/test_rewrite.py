"""archcost propose and archcost rewrite: what they print and write; the files bring the model back."""

import json
from argparse import Namespace

import pytest
import torch

import archcost
from archcost.cli import main
from archcost.cli.propose import random_weights

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2), nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1),
    )
"""
SIZE = ["--input-size", "1,3,12,12"]
RULES = ["--rules", "asymmetric"]


@pytest.fixture
def net(written, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHCOST_STORE", str(tmp_path / "store.sqlite"))
    return written(NET)


def images(count=6):
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def outputs(model):
    with torch.no_grad():
        return model(images())


def test_propose_prints_the_table_on_stdout_and_nothing_else(net, capsys):
    assert main(["propose", net, *SIZE]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0] == "net.py:net (Sequential)  input 1x3x12x12 float32"
    assert out.splitlines()[1].startswith(
        "Half the MACs saved (552 k -> 274 k): 4 layers, speed not measured, "
    )
    assert "Times: not measured; archcost propose --measure" in out
    assert "\x1b" not in out
    assert "Skipped by" not in out
    assert main(["propose", net, *SIZE, "--all"]) == 0
    every = capsys.readouterr().out
    for rule in ("small_kernels", "asymmetric", "bottleneck", "separable"):
        assert f"\n{rule} " in every
    assert every.splitlines()[-1].startswith("Skipped by")


def test_propose_looks_at_the_rules_ratios_and_layers_asked_for(net, capsys):
    arguments = ["--rules", "asymmetric,bottleneck", "--ratio", "0.3", "0.6", "--layers", "[24]"]
    assert main(["propose", net, *SIZE, *arguments, "--no-errors", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["proposals"]
    assert {one["rule"] for one in found} == {"asymmetric", "bottleneck"}
    assert {one["name"] for one in found} == {"2", "4"}
    assert {one["weight_error"] for one in found} == {None}
    ratios = {one["macs_ratio"] for one in found if one["rule"] == "asymmetric"}
    assert min(ratios) <= 0.3 < max(ratios) <= 0.6


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json", "html"])
def test_propose_writes_every_format_to_stdout_or_a_file(net, form, capsys, tmp_path):
    arguments = ["propose", net, *SIZE, *RULES, "--no-errors", "--format", form]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "asymmetric" in out
    assert main([*arguments, "-o", "report"]) == 0
    assert (tmp_path / "report").read_text() == out
    assert capsys.readouterr().out == ""


def test_propose_measures_when_asked_and_the_store_remembers(net, capsys):
    arguments = ["propose", net, *SIZE, *RULES, "--layers", "2", "--no-errors", "--threads", "1"]
    assert main([*arguments, "--measure", "--seconds", "30"]) == 0
    assert "Raced ms" in capsys.readouterr().out
    assert main([*arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["proposals"]
    assert any(one["race"] is not None for one in found)


@pytest.mark.parametrize(
    ("spec", "weights", "said"),
    [("torchvision:vgg11", None, True), ("torchvision:vgg11", "w.pt", False), ("net.py:net", None, False)],
)
def test_errors_of_random_weights_are_said_to_be_that(spec, weights, said, capsys):
    random_weights(Namespace(spec=spec, weights=weights))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("note: the weights are untrained") == said == bool(err)


def test_interrupted_timing_shows_the_proposals_and_says_so(net, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("archcost.rewriting.racing.race_proposals", interrupted)
    assert main(["propose", net, *SIZE, *RULES, "--no-errors", "--measure"]) == 130
    out, err = capsys.readouterr()
    assert "asymmetric" in out
    assert err == "archcost: interrupted; times measured until then are kept in the store\n"


def test_rewrite_writes_weights_and_plan_that_bring_the_model_back(net, capsys, tmp_path):
    assert main(["rewrite", net, *SIZE, "--rules", "asymmetric", "merge", "-o", "new.pt"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "asymmetric" in out
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("import archcost"))
    # What it prints is what a person runs.
    told = {}
    exec("\n".join(lines[start:]), told)
    restored = told["model"].eval()
    state = torch.load("new.pt", weights_only=True)
    assert state.keys() == restored.state_dict().keys()
    original = archcost.load(net).model
    again = archcost.rewrite(original, rules=["asymmetric", "merge"], input_size=(1, 3, 12, 12), store=False)
    assert torch.equal(outputs(restored), outputs(again.model))
    assert not torch.equal(outputs(restored), outputs(original))


def test_rewrite_takes_layers_with_rules_and_options(net, capsys, tmp_path):
    layers = ["--layers", "0=asymmetric:rank=2,first=width", "[24]=bottleneck"]
    assert main(["rewrite", net, *SIZE, *layers, "-o", "new.pt", "--plan", "p.json", "--python", "l.py"]) == 0
    plan = archcost.Plan.from_json("p.json")
    assert {one.name: one.rule for one in plan} == {"0": "asymmetric", "2": "bottleneck", "4": "bottleneck"}
    assert plan.proposals[0].options["rank"] == 2
    assert not (tmp_path / "new.plan.json").exists()
    told = {}
    exec((tmp_path / "l.py").read_text(), told)
    made = told["new_layers"](archcost.load(net).model)
    assert list(made) == ["0", "2", "4"]


@pytest.mark.parametrize("form", ["markdown", "csv", "json", "html"])
def test_rewrite_writes_every_format_to_stdout_and_nothing_else(net, form, capsys, tmp_path):
    options = ["--top", "1", "--format", form, "--save", "saved.json"]
    assert main(["rewrite", net, *SIZE, *RULES, "-o", "new.pt", *options]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("archcost: wrote saved.json\n# The new weights are in new.pt")
    again = archcost.load_result(tmp_path / "saved.json")
    assert getattr(again, f"to_{form}")(top=1).rstrip("\n") == out.rstrip("\n")
    if form == "json":
        assert len(json.loads(out)["outcomes"]) == 1
        assert len(again.outcomes) == 3


def test_rewrite_with_batches_refits_on_them_and_writes_the_report(net, capsys, tmp_path):
    torch.save(images(5), "a.pt")
    torch.save(images(3), "b.pt")
    data = ["--batches", "a.pt", "b.pt", "--batch-size", "4"]
    assert main(["rewrite", net, *RULES, *data, "-o", "new.pt", "--report", "report.md"]) == 0
    report = (tmp_path / "report.md").read_text()
    assert "input 1x3x12x12" in report
    assert "after refit" in report
    assert "Plan.from_json('new.plan.json')" in report
    assert "| 2 " in report


def test_batches_are_cut_along_the_first_axis():
    from archcost.cli.batches import load_batches
    from archcost.errors import SpecError

    with pytest.raises(SpecError, match="at least one input"):
        load_batches(["a.pt"], 0)


def test_the_last_batch_of_a_file_is_smaller(tmp_path):
    from archcost.cli.batches import load_batches

    torch.save(images(5), tmp_path / "a.pt")
    torch.save(images(3), tmp_path / "b.pt")
    found = load_batches([str(tmp_path / "a.pt"), str(tmp_path / "b.pt")], 2)
    assert [len(batch) for batch in found] == [2, 2, 1, 2, 1]
    assert torch.equal(torch.cat(found), torch.cat([images(5), images(3)]))


def test_rewrite_measures_the_whole_model_when_asked(net, capsys):
    arguments = ["rewrite", net, *SIZE, *RULES, "-o", "new.pt", "--threads", "1"]
    assert main([*arguments, "--measure", "--seconds", "30"]) == 0
    assert "\nSpeed: " in capsys.readouterr().out


def test_a_rewrite_that_finds_nothing_writes_nothing_and_is_a_finding(net, capsys, tmp_path):
    before = set(tmp_path.iterdir())
    assert (
        main(["rewrite", net, *SIZE, "--rules", "reduce_first", "-o", "new.pt", "--store", ":memory:"]) == 1
    )
    assert "Nothing was written." in capsys.readouterr().out
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("taken", ["new.pt", "new.plan.json", "r.md", "l.py"])
def test_no_file_is_overwritten_unless_forced(net, capsys, tmp_path, taken):
    (tmp_path / taken).write_text("precious")
    files = ["-o", "new.pt", "--report", "r.md", "--python", "l.py"]
    assert main(["rewrite", net, *SIZE, *RULES, *files]) == 2
    assert capsys.readouterr().err == f"archcost: {taken} exists; --force overwrites it\n"
    assert (tmp_path / taken).read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} <= {taken, "net.py", "__pycache__"}


def test_force_overwrites(net, tmp_path):
    (tmp_path / "new.pt").write_text("old")
    (tmp_path / "new.plan.json").write_text("old")
    assert main(["rewrite", net, *SIZE, *RULES, "-o", "new.pt", "--force"]) == 0
    assert torch.load("new.pt", weights_only=True)
    assert len(archcost.Plan.from_json("new.plan.json")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["propose", "net.py:net", "--rules", "asymetric"], "'asymetric'; did you mean asymmetric?"),
        (["propose", "net.py:net", *SIZE, "--layers", "3"], "'3' of net.py:net is a ReLU, not a conv"),
        (["propose", "net.py:net", *SIZE, "--batches", "no.pt"], "--batches: there is no file 'no.pt'"),
        (["propose", "net.py:net", *SIZE, "--batches", "net.py"], "net.py cannot be read as plain tensors"),
        (["propose", "net.py:net", *SIZE, "--batches", "list.pt"], "list.pt holds list; give a file"),
        (["propose", "net.py:net", *SIZE, "--threads", "0"], "threads must be a whole number"),
        (["rewrite", "net.py:net", *RULES], "rewrite needs -o FILE"),
        (["rewrite", "net.py:net", *RULES, "-o", "a.pt", "--plan", "a.pt"], "name the same file twice"),
        (["rewrite", "net.py:net", *RULES, "-o", "a.pt", "--save", "a.pt"], "name the same file twice"),
        (["propose", "net.py:net", *SIZE, *RULES, "--depth", "1"], "has no levels of modules"),
        (["rewrite", "net.py:net", *RULES, "-o", "a.pt", "--plan", "no/p.json"], "its folder does not exist"),
        (["rewrite", "net.py:net", "--rules", "mergee", "-o", "a.pt"], "did you mean merge?"),
        (["rewrite", "net.py:net", "--layers", "2", "-o", "a.pt"], "'2' is not NAME=RULE"),
        (["rewrite", "net.py:net", "--layers", "2=asymm", "-o", "a.pt"], "did you mean asymmetric?"),
        (["rewrite", "net.py:net", *SIZE, "--layers", "9=merge", "-o", "a.pt"], "no convolution '9'"),
        (["rewrite", "net.py:net", *SIZE, "--layers", "2=asymmetric:rank", "-o", "a.pt"], "not option=value"),
        (["rewrite", "net.py:net", *SIZE, "--layers", "7=asymmetric", "-o", "a.pt"], "'7' cannot be"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_on_stderr_and_exit_code_2(net, capsys, tmp_path, arguments, message):
    torch.save([1, 2], "list.pt")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("archcost: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["rewrite", "a:b", "-o", "new.pt"],
        ["rewrite", "a:b", "-o", "new.pt", "--rules", "merge", "--layers", "2=merge"],
        ["rewrite", "a:b", "-o", "new.pt", "--rules", "merge", "--ratio", "2"],
        ["propose", "a:b", "--ratio", "0"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["propose", "rewrite"])
def test_the_help_of_a_command_names_its_options(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for option in ("--rules", "--ratio", "--layers", "--batches", "--measure", "--threads", "--force"):
        assert option in out


class Gone:
    """A pipe whose reader has gone."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError

    def isatty(self):
        return False

    def close(self):
        pass


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (
            ["rewrite", *RULES, "-o", "new.pt", "--report", "new.md", "--python", "new.py"],
            ["new.md", "new.plan.json", "new.pt", "new.py"],
        ),
        (
            ["rewrite", *RULES, "-o", "new.pt", "--measure", "--seconds", "1e-9"],
            ["new.plan.json", "new.pt"],
        ),
        (["rewrite", "--rules", "pool_first", "-o", "new.pt", "--report", "new.md"], ["new.md"]),
        (["field", "--plot", "window.png", "--growth", "growth.svg"], ["growth.svg", "window.png"]),
        (["analyze", "--format", "csv", "-o", "costs.csv"], ["costs.csv"]),
        (["propose", "--format", "csv", "-o", "new.csv"], ["new.csv"]),
    ],
)
def test_a_reader_who_has_gone_costs_no_file(net, tmp_path, monkeypatch, arguments, files):
    before = set(tmp_path.iterdir())
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}", Gone())
    assert main([arguments[0], net, *SIZE, *arguments[1:]]) == 0
    written = {path.name for path in set(tmp_path.iterdir()) - before}
    assert sorted(name for name in written if "sqlite" not in name and name != "__pycache__") == files
