"""A model whose forward fails: the error has the Analysis of what ran, and of what the rest was given."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import archcost
from archcost.cli import main
from archcost.report.document import Asked


class Broken(nn.Module):
    """Fails in ``head``, or in its own forward, or in code that is no operation."""

    def __init__(self, how="head"):
        super().__init__()
        self.stem, self.never, self.head, self.how = nn.Conv2d(3, 4, 3), nn.Linear(2, 2), nn.Linear(9, 2), how

    def forward(self, x):
        y = self.stem(x)
        if self.how == "own":
            return torch.cat([y, x], 1)
        if self.how == "code":
            raise ValueError("not like this")
        return self.head(y.flatten(1))


def partial(how, **options):
    with pytest.raises(archcost.ArchcostError) as raised:
        archcost.analyze(Broken(how), input_size=(1, 3, 8, 8), **options)
    assert raised.value.partial is not None
    return raised.value.partial


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize(
    ("how", "module", "shapes", "operation"),
    [
        ("head", "head", [(1, 144)], "aten.addmm.default"),
        ("own", "", [(1, 4, 6, 6), (1, 3, 8, 8)], "aten.cat.default"),
        ("code", "", [(1, 3, 8, 8)], ""),
    ],
)
def test_the_error_has_what_ran_and_where_it_ended(how, module, shapes, operation, device):
    found = partial(how, device=device)
    failed = found.trace.failed
    assert failed.module == module
    assert [ref.shape for ref in failed.inputs] == shapes
    assert failed.operation == operation
    assert found["stem"].macs == 4 * 6 * 6 * 27 == found.total.macs
    assert found["head"].calls == (how == "head")
    assert found.total.params == sum(p.numel() for p in Broken().parameters())
    assert found.total.output_shape is None


@pytest.mark.parametrize("how", ["head", "own", "code"])
def test_every_format_shows_it(how, tmp_path):
    found = partial(how)
    lines = found.to_text(width=80).splitlines()
    (marked,) = [line for line in lines if line.startswith(">> ")]
    assert lines[-1] == marked
    assert marked.endswith("failed")
    assert any(line.startswith("stem (Conv2d)") and line.endswith("1x4x6x6") for line in lines)
    assert "The forward pass failed" in found.to_markdown()
    assert "The forward pass failed" in found.to_html()
    assert json.loads(found.to_json())["failed"]["module"] == found.trace.failed.module
    assert len(found.to_pandas()) == 4
    assert "stem" in found.to_text(depth="all")
    assert "stem" in found.to_text(top=2)
    found.save(tmp_path / "partial.json")
    assert archcost.load_result(tmp_path / "partial.json").trace.failed == found.trace.failed
    assert str(pickle.loads(pickle.dumps(found))) == str(copy.deepcopy(found)) == str(found)


def test_the_page_says_what_failed_first_and_gives_the_shapes_that_led_there():
    page = partial("head").document(Asked()).page()
    assert page.warnings[0].startswith("The forward pass failed in head: ")
    assert [(one.head, one.command) for one in page.advice] == [("Mend head", "")]
    assert "1x144" in page.advice[0].text
    *_, end = page.tables[0].table.rows()
    assert (end.module, end.failed) == ("head", True)


def test_a_suggestion_keeps_what_ran():
    with pytest.raises(archcost.InputError, match="Is the batch dimension missing") as raised:
        archcost.analyze(nn.Sequential(nn.BatchNorm2d(3)), input_size=(3, 8, 8))
    assert raised.value.partial.trace.failed.module == "0"


def test_a_model_that_runs_has_no_failure():
    assert archcost.analyze(nn.ReLU(), input_size=(1, 2)).trace.failed is None
    with pytest.raises(archcost.SpecError) as raised:
        archcost.analyze("torchvision:none")
    assert raised.value.partial is None


def test_the_command_line_prints_it_above_the_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3))\n"
    )
    line = ["analyze", "net.py:net", "--input-size", "1,3,8,8"]
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert ">> 1 (Conv2d, convolution)  1x4x6x6  failed" in out
    assert err.count("\n") == 1
    assert err.startswith("archcost: '1' (Conv2d) got an input of shape 1x4x6x6")
    first = [*line[:-1], "1,4,8,8"]  # nothing ran before it failed
    for other in ([*line, "--format", "json"], [*line, "-o", "x.txt"], first):
        assert main(other) == 2
        assert capsys.readouterr().out == ""
