"""archcost sweep, train, largest and footprint: the answer first, refusals in one line."""

import json

import pytest

from archcost.cli import main
from archcost.cli.sweep import numbers

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
        super().__init__(*layers)

class Words(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(90, 8), nn.Linear(8, 2))
"""
SIZE = ["--input-size", "1,3,16,16"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)

    def call(command, *arguments, of="Net"):
        code = main([command, f"net.py:{of}", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_numbers_are_lists_and_ranges_with_both_ends():
    assert numbers("1,8,32") == [1, 8, 32]
    assert numbers("128:512:128") == [128, 256, 384, 512]
    assert numbers("1:3,9") == [1, 2, 3, 9]


def test_a_sweep_prints_draws_and_saves(run, tmp_path):
    code, out, _ = run("sweep", "--sizes", "16:32:8", "--batches", "1,2", "--picture", "growth.svg")
    assert code == 0
    assert out.splitlines()[1].startswith("At 32 px Net costs ")
    assert "<svg" in (tmp_path / "growth.svg").read_text(encoding="utf-8")
    code, out, _ = run("sweep", "--sizes", "16,32", "--format", "json", "--memory", "10 MB")
    found = json.loads(out)
    assert [point["side"] for point in found["points"]] == [16, 32]
    assert "10 MB hold a batch of " in found["answers"][1]


def test_training_memory_and_footprint(run):
    code, out, _ = run("train", *SIZE, "--optimizer", "sgd")
    assert code == 0
    assert "A training step takes" in out
    code, out, _ = run("largest", *SIZE, "--memory", "1 MB", "--training")
    assert code == 0
    assert "1.00 MB hold a batch of " in out
    tokens = ["--memory", "1 MB", "--dtype", "int64", "--input-size", "1,7"]
    assert "1.00 MB hold a batch of " in run("largest", *tokens, of="Words")[1]
    assert run("footprint", *SIZE, "--flash", "1 MB", "--sram", "320 KB")[0] == 0
    assert run("footprint", *SIZE, "--sram", "100 B")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "--sizes", "16", *SIZE], "give either --sizes, sides of the model's own input, or"),
        (["sweep", "--sizes", "16", "--dtypes", "float9"], "'float9' is not a torch dtype"),
        (["sweep", "--sizes", "1:20000"], r"take about [\d,]+ minutes; give fewer, or --yes"),
        (["sweep", "--sizes", "1,2"], "runs at no point; first: "),
        (["largest", *SIZE, "--memory", "1 KB"], "do not hold a batch of 1"),
        (["largest", *SIZE, "--memory", "big"], "cannot read 'big'"),
        (["train", *SIZE, "--optimizer", "adamx"], "torch.optim has no 'adamx'"),
        (["footprint", *SIZE, "--weights-dtype", "int9"], "'int9' is not a torch dtype"),
    ],
)
def test_wrong_arguments_get_one_line_and_code_2(run, arguments, words):
    import re

    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(f"archcost: .*{words}.*\n", err)
