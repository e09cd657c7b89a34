"""Results as files: what is saved is read back, drawn and compared; a file runs no code."""

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import timm
import torch
import torchvision
from golden.models import branches, recurrent, transformer, uncountable
from torch import nn

import archcost
from archcost import SpecError
from archcost.cli import main

ZEROS = torch.zeros(1, 3, 32, 32)
MODELS = {
    "branches": (branches, {"input_size": (1, 3, 32, 32)}),
    "transformer": (transformer, {"input_size": (2, 7), "dtype": torch.int64}),
    "recurrent": (recurrent, {"input_size": (2, 5, 6)}),
    "uncountable": (uncountable, {"input_size": (1, 3, 16, 16)}),
    "resnet18": (torchvision.models.resnet18, {"input_size": (1, 3, 224, 224)}),
    "swin": (lambda: timm.create_model("swin_tiny_patch4_window7_224"), {}),
    "mask": (torchvision.models.swin_v2_t, {"input_size": (1, 3, 224, 224)}),
    "run for real": (branches, {"inputs": ZEROS, "device": "cpu"}),
    "by name": (branches, {"inputs": {"x": ZEROS}}),
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "saved.json"


@pytest.mark.parametrize("name", MODELS)
def test_an_analysis_is_what_it_was(name, file):
    make, options = MODELS[name]
    model = make().eval()
    found = archcost.analyze(model, progress=False, **options)
    found.save(file)
    again = archcost.load_result(file)
    assert type(again) is archcost.Analysis
    assert str(again) == str(found)
    assert again.to_json(by="operations") == found.to_json(by="operations")
    assert again.trace == found.trace
    with pytest.raises(archcost.ModelError, match="the model is gone"):
        _ = again.model


def others():
    model = branches()
    return {
        "comparison": archcost.compare(model, nn.Sequential(nn.Conv2d(3, 4, 3)), ZEROS),
        "field": archcost.receptive_field(model, ZEROS, "blocks.1"),
        "effective": archcost.effective_field(model, ZEROS, "stem", samples=1),
        "crosscheck": archcost.analysis.crosscheck(recurrent(), input_size=(2, 5, 6)),
        "zoo": archcost.zoo("squeezenet1_1", progress=False),
    }


@pytest.mark.parametrize("name", ["comparison", "field", "effective", "crosscheck", "zoo"])
def test_other_results_are_what_they_were(name, file):
    found = others()[name]
    found.save(file)
    again = archcost.load_result(file)
    assert type(again) is type(found)
    assert str(again) == str(found)
    assert again.to_json() == found.to_json()
    assert again.to_csv() == found.to_csv()
    if name == "effective":
        assert np.array_equal(again.map, found.map)


def test_what_was_saved_is_analysed_compared_and_drawn(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archcost.analyze("torchvision:squeezenet1_1", progress=False).save("before.json")
    assert main(["analyze", "torchvision:squeezenet1_0", "--save", "after.json", "--depth", "0"]) == 0
    capsys.readouterr()
    assert main(["compare", "before.json", "after.json", "--depth", "0"]) == 0
    out = capsys.readouterr().out
    assert "a: torchvision:squeezenet1_1" in out
    assert "b: torchvision:squeezenet1_0" in out
    assert main(["analyze", "before.json", "--top", "1", "--format", "csv"]) == 0
    assert archcost.plot.growth(archcost.load_result("before.json")).axes
    assert main(["field", "before.json", "--layer", "features.3"]) == 0
    assert main(["analyze", "torchvision:squeezenet1_0", "--save", "after.json"]) == 2
    assert "after.json exists; --force overwrites it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as a saved result"),
        ("[]", "has no schema"),
        (
            '{"schema": "archcost.analysis/1"}',
            r"has the schema 'archcost.analysis/1' and is not a saved result",
        ),
        (
            '{"schema": "archcost.saved/1", "archcost": "9.9"}',
            "was written by archcost 9.9; this version cannot read it",
        ),
        ("of os.system", "os.system is not a class of archcost"),
        ("of archcost.report.saving.load_result", "is not a dataclass or a named tuple"),
        ("of archcost.cli.main", "is not a dataclass or a named tuple"),
        ("nonsense", "this version cannot read it: KeyError"),
    ],
)
def test_a_file_that_is_none_says_so_and_runs_nothing(text, message, file):
    if text and text[0] not in "[{":
        word, _, name = text.partition(" ")
        text = json.dumps({"schema": "archcost.saved/1", "result": [word, name, {"command": "exit 1"}]})
    file.write_text(text)
    with pytest.raises(SpecError, match=message):
        archcost.load_result(file)


def test_a_file_takes_no_inputs_and_has_to_hold_an_analysis(file):
    with pytest.raises(SpecError, match="cannot be read as a saved result"):
        archcost.analyze(str(file))
    archcost.analyze(branches(), ZEROS, progress=False).save(file)
    with pytest.raises(archcost.InputError, match="holds an Analysis with its inputs; leave input_size out"):
        archcost.analyze(str(file), input_size=(1, 3, 8, 8))
    archcost.receptive_field(branches(), ZEROS).save(file)
    with pytest.raises(SpecError, match="holds a ReceptiveField, not an Analysis"):
        archcost.analyze(str(file))


class Pair(NamedTuple):
    image: object
    scale: float


class TakesPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, pair):
        return Pair(self.conv(pair.image), pair.scale)


def test_a_named_tuple_of_the_users_is_saved_as_a_tuple(file):
    found = archcost.analyze(TakesPair().eval(), (Pair(ZEROS, 0.5),), progress=False)
    found.save(file)
    assert str(archcost.load_result(file)) == str(found)


@dataclass(frozen=True)
class Foreign:
    size: int


def test_what_could_not_be_read_back_is_refused_when_it_is_saved(file):
    witness = archcost.analysis.CrossCheck("net", 1, {"fvcore": Foreign(1)}, {}, (), 1)
    with pytest.raises(SpecError, match=r"a .*\.Foreign cannot be saved"):
        witness.save(file)
    assert not file.exists()
