"""Receptive fields in tables, pandas, JSON, footnotes and on the command line."""

import json
import sys

import pytest
import torch
from torch import nn

import archcost
from archcost.cli import main


class Net(nn.Module):
    """A stem, a gated block and a head: local fields grow where global ones stay."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.body = nn.Conv2d(4, 4, (5, 3), padding=(2, 1))
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.body(self.stem(x))
        x = self.last(x * self.squeeze(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def analysis():
    return archcost.analyze(Net(), input_size=(1, 3, 64, 64))


def test_pandas_has_size_stride_and_padding_of_every_module(analysis):
    table = analysis.to_pandas().set_index("name")
    assert table.loc["stem", "rf_size"] == (3, 3)
    assert table.loc["body", "rf_size"] == (11, 7)
    assert table.loc["body", "rf_stride"] == (2, 2)
    assert table.loc["body", "rf_padding"] == (5, 3)
    assert table.loc["body", "receptive_field"] == "11x7"
    assert table.loc["last", "rf_size"] == (64, 64)
    assert table.loc["last", "rf_stride"] == (0, 0)
    assert table.loc["last", "rf_local_size"] == (15, 11)
    assert table.loc["last", "receptive_field"] == "all (15x11)"
    assert table.loc["last", "rf_because"] == "`squeeze` (mean)"
    assert table.loc["head", "receptive_field"] == "all"
    assert 0 < table.loc["stem", "rf_in_padding_percent"] < 5


def test_the_models_own_row_is_the_network_at_its_last_feature_map(analysis):
    assert analysis.fields.network.layer == "last"
    table = analysis.to_pandas(depth=0)
    assert table.loc[0, "rf_local_size"] == (15, 11)
    assert analysis.fields.output.is_global


def test_the_table_and_its_notes_show_the_field(analysis):
    text = analysis.to_text(full=True)
    total = next(line for line in text.splitlines() if line.startswith("Total"))
    assert "all (15x11)" in total
    assert "Field: size 15x11, stride 2, padding 7x5 at last, the last feature map, global operations" in text
    assert "the output sees the whole input, because of `squeeze` (mean)" in text


def test_markdown_and_html_show_it_too(analysis):
    assert "all (15x11)" in analysis.to_markdown()
    assert "all (15x11)" in analysis.to_html()


def test_json_holds_network_output_and_findings(analysis):
    found = json.loads(analysis.to_json())["receptive_field"]
    assert found["network"]["layer"] == "last"
    assert found["network"]["size"] == [64, 64]
    assert found["network"]["local"]["size"] == [15, 11]
    assert found["output"]["because"] == ["`squeeze` (mean)"] * 2
    assert [f["kind"] for f in found["findings"]] == ["global"]


def test_a_model_without_spatial_axes_has_no_field_and_says_so_quietly():
    analysis = archcost.analyze(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), input_size=(2, 8))
    assert analysis.fields.network is None
    assert analysis.to_pandas()["receptive_field"].isna().all()
    assert "Field:" not in analysis.to_text(full=True)
    assert json.loads(analysis.to_json())["receptive_field"]["network"] is None


def test_the_same_layer_called_twice_has_a_field_for_each_call_and_their_union():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    field = archcost.receptive_field(Twice(), torch.rand(1, 2, 16, 16), "conv")
    assert [call.size for call in field.calls] == [(3, 3), (5, 5)]
    assert field.size == (5, 5)
    once = archcost.receptive_field(Twice(), torch.rand(1, 2, 16, 16), "conv", call=0)
    assert once.size == (3, 3)


class Pair(nn.Module):
    """Two inputs, one of them seen through a mean, the other by position."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 5)

    def forward(self, first, second):
        return self.a(first).mean() * self.b(second)


def test_with_several_inputs_the_report_says_which_one_a_field_is_of():
    sizes = {"first": (1, 2, 16), "second": (1, 2, 16)}
    by_name, by_place = (archcost.analyze(Pair(), input_size=s) for s in (sizes, tuple(sizes.values())))
    assert "Field: size 5, stride 1, padding 0 of input 1 (second) at the output" in by_name.to_text(
        full=True
    )
    assert "Field: size 5, stride 1, padding 0 of input 1 at the output" in by_place.to_text(full=True)
    assert "Field: the output sees all of input 0 (first), because of" in by_name.to_text(full=True)
    assert str(archcost.receptive_field(by_name, layer="b")).startswith("b, position 6, of input 1 (second)")
    assert json.loads(by_name.to_json())["receptive_field"]["network"]["input"] == 1


def test_with_one_input_a_field_says_no_more_of_it(analysis):
    assert analysis.fields.network.input_name is None
    assert " of input" not in analysis.to_text(full=True)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_bidirectional_layer_sees_the_whole_input_however_long_it_is(kind):
    for length in (10, 21):
        analysis = archcost.analyze(
            nn.Sequential(kind(4, 8, batch_first=True, bidirectional=True)), input_size=(1, length, 4)
        )
        field = archcost.receptive_field(analysis, layer="0", position=3)
        assert (field.size, field.window) == ((length,), ((0, length - 1),))
        assert field.is_global
        assert not any(field.local.size)
        assert field.size_text() == "all"
        text = analysis.to_text(full=True)
        assert "Misaligned" not in text
        assert "size 0" not in text
        assert "Field: the output sees the whole input, because of `0`" in text


def test_a_step_of_a_recurrent_layer_sees_all_before_it_and_is_not_global():
    for length in (10, 21):
        field = archcost.receptive_field(
            nn.LSTM(4, 8, batch_first=True), input_size=(1, length, 4), layer="", position=3
        )
        assert (field.size, field.window, field.is_global) == ((4,), ((0, 3),), False)


NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "net.py:net"


def test_the_command_prints_the_field_of_a_position_and_verifies_it(spec, capsys):
    arguments = ["--input-size", "1,3,32,32", "--layer", "2", "--position", "0,5", "--verify"]
    assert main(["field", spec, *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "2, position 0, 5" in out
    assert "size 7, stride 2, padding 3" in out
    assert "window [0, 3] x [7, 13], unclipped [-3, 3] x [7, 13]" in out
    assert "the model agrees" in out


def test_the_command_exits_with_1_where_the_model_disagrees(spec, capsys, monkeypatch):
    from archcost.fields.intervals import taps
    from archcost.fields.rules import window

    def too_wide(size, kernel, stride, low, dilation, outputs):
        return taps.window(size, kernel + 2 * (kernel > 1), stride, low + (kernel > 1), dilation, outputs)

    monkeypatch.setattr(window, "window", too_wide)
    arguments = ["--input-size", "1,3,32,32", "--layer", "2", "--verify"]
    assert main(["field", spec, *arguments]) == 1
    assert "DISAGREES" in capsys.readouterr().out


def test_the_command_writes_json(spec, capsys):
    assert main(["field", spec, "--input-size", "1,3,32,32", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["size"], found["stride"], found["padding"]) == ([7, 7], [2, 2], [3, 3])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "nope"], "has no module 'nope'"),
        (["--position", "99,0"], "lies outside"),
        (["--position", "1"], "does not fit"),
        (["--plot", "nowhere/x.png"], "its folder does not exist"),
        (["--growth", "x.docx"], "docx"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(spec, capsys, arguments, words):
    assert main(["field", spec, "--input-size", "1,3,32,32", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_pictures_are_refused_before_the_work_where_matplotlib_is_missing(spec, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["field", spec, "--input-size", "1,3,32,32", "--plot", "x.png"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "archcost[plots]" in err
