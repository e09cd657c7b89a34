"""Two models side by side."""

import csv
import io
import json
import re

import pytest
import torch
from torch import nn

import archcost
from archcost.errors import InputError, SpecError


def small(width=4, extra=False):
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, width, 3))
    if extra:
        model.add_module("extra", nn.Conv2d(width, width, 1))
    model.add_module("body", nn.Sequential(nn.Conv2d(width, 8, 3), nn.ReLU()))
    return model


@pytest.fixture(scope="module")
def both():
    return archcost.compare(small(), small(8, extra=True), input_size=(1, 3, 10, 10), names=("old", "new"))


def test_totals_and_modules_stand_side_by_side(both):
    frame = both.to_pandas().set_index("name")
    assert list(frame.index) == ["", "stem", "extra", "body", "body.0", "body.1"]
    whole = frame.loc[""]
    assert whole["macs_a"] == both.a.total.macs
    assert whole["macs_b"] == both.b.total.macs
    assert whole["macs_difference"] == both.b.total.macs - both.a.total.macs
    assert whole["macs_ratio"] == pytest.approx(both.b.total.macs / both.a.total.macs)
    assert str(frame["macs_a"].dtype) == "Int64"
    assert str(frame["macs_ratio"].dtype) == "Float64"


def test_a_module_of_one_alone_is_shown_as_such(both):
    frame = both.to_pandas().set_index("name")
    extra = frame.loc["extra"]
    assert extra["only_in"] == "b"
    assert frame["only_in"].notna().sum() == 1
    assert frame["macs_a"].isna()["extra"]
    assert frame["macs_ratio"].isna()["extra"]
    assert extra["macs_difference"] == both.b["extra"].macs
    leaves = ["stem", "extra", "body.0", "body.1"]
    assert frame.loc[leaves, "macs_difference"].sum() == frame.loc["", "macs_difference"]
    assert "extra (Conv2d, only in b)" in both.to_text()
    other = archcost.compare(both.b, both.a)
    assert "extra (Conv2d, only in a)" in other.to_text()


def test_print_puts_totals_first(both, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print(both)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].startswith("a: old (Sequential)  input 1x3x10x10")
    assert lines[1].startswith("b: new (Sequential)")
    macs = next(line for line in lines if line.startswith("MACs "))
    ratio = both.b.total.macs / both.a.total.macs
    assert macs.endswith(f"{ratio:.2f}x")
    assert text.index("Peak memory") < text.index("stem (Conv2d)")
    both.table()
    assert capsys.readouterr().out.rstrip() == text.rstrip()
    both.table(depth=1)
    assert "ReLU" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [50, 80, 120])
def test_no_line_is_wider_than_the_terminal(both, width):
    assert max(map(len, both.to_text(width=width).splitlines())) <= width


def test_a_changed_type_and_an_unchanged_module():
    a, b = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(nn.Linear(4, 4), nn.GELU())
    comparison = archcost.compare(a, b, torch.zeros(2, 4))
    text = comparison.to_text()
    assert "1 (ReLU -> GELU)" in text
    assert re.search(r"0 \(Linear\) +20 +20 +1x", text)


def test_options_sort_top_and_columns(both):
    frame = both.to_pandas(sort="macs_difference", columns=["macs"])
    assert list(frame.columns) == [
        *("name", "type_a", "type_b", "only_in"),
        *("macs_a", "macs_b", "macs_difference", "macs_ratio"),
    ]
    assert frame["macs_difference"].abs().is_monotonic_decreasing
    assert len(both.to_pandas(top=2)) == 2
    assert len(both.to_pandas(depth=0)) == 1
    assert "body.0" in both.to_text(top=3)
    for options, message in (
        ({"columns": ["mac"]}, "'macs'"),
        ({"sort": "macs_diff"}, "'macs_difference'"),
        ({"depth": -1}, "depth is -1"),
        ({"top": 0}, "top is 0"),
    ):
        for method in (both.to_pandas, both.to_csv, both.to_markdown, both.to_text):
            with pytest.raises(SpecError, match=message):
                method(**options)


def test_formats(both, tmp_path):
    whole = json.loads(both.to_json())
    assert whole["schema"] == "archcost.comparison/1"
    assert whole["a"]["model"] == "old"
    assert whole["b"]["total"]["macs"] == both.b.total.macs
    assert [row["name"] for row in whole["modules"]] == list(both.to_pandas()["name"])
    assert whole["modules"][2]["only_in"] == "b"
    assert whole["modules"][2]["macs_a"] is None
    rows = list(csv.DictReader(io.StringIO(both.to_csv())))
    assert [row["macs_b"] for row in rows] == [str(row["macs_b"]) for row in whole["modules"]]
    assert both.to_csv(tmp_path / "c.csv") is None
    assert (tmp_path / "c.csv").read_text(encoding="utf-8") == both.to_csv()
    lines = [line for line in both.to_markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6, 11}
    page = re.sub(r"<[^>]*>", "", both._repr_html_())
    assert "extra (Conv2d, only in b)" in page
    assert len(repr(both)) < 250


def test_hostile_names_stay_text():
    model = nn.Sequential()
    for name in ("a|b", "[red]x", "\x1b[31m", "<b>", "=1+1"):
        model.add_module(name, nn.Linear(2, 2))
    comparison = archcost.compare(model, nn.Sequential(), torch.zeros(1, 2), names=("\x1b[0m", "<i>"))
    for text in (comparison.to_text(), comparison.to_markdown(), comparison.to_csv(), repr(comparison)):
        assert not [c for c in text if c != "\n" and not c.isprintable()]
    page = comparison._repr_html_()
    assert "<b>]" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;" in page
    assert "[red]x" in comparison.to_text()


def test_inputs_may_differ_and_a_note_says_so():
    a, b = nn.Linear(4, 2), nn.Linear(6, 2)
    comparison = archcost.compare(a, b, torch.zeros(1, 4), inputs_b=torch.zeros(1, 6))
    assert "1x6 float32" in comparison.notes[0]
    assert "the inputs differ" in comparison.to_text()
    with pytest.raises(InputError):
        archcost.compare(a, b, torch.zeros(1, 4))


def test_an_analysis_is_taken_as_it_is():
    a = archcost.analyze(nn.Linear(4, 2), input_size=(1, 4))
    comparison = archcost.compare(a, nn.Linear(4, 8), input_size=(1, 4))
    assert comparison.a is a
    assert comparison.b.total.params == 40
    assert comparison.notes == ()


def test_names_are_two():
    with pytest.raises(SpecError, match="give two names"):
        archcost.compare(nn.ReLU(), nn.ReLU(), torch.zeros(1), names=("a",))


def test_a_lower_bound_makes_the_change_unknown():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.ops.archcost_pair.mystery(x)

    with torch.library._scoped_library("archcost_pair", "DEF") as library:
        library.define("mystery(Tensor x) -> Tensor")
        library.impl("mystery", lambda x: torch.empty_like(x), "Meta")
        conv = nn.Conv2d(3, 4, 3)
        comparison = archcost.compare(
            nn.Sequential(conv, nn.ReLU()), nn.Sequential(conv, Odd()), input_size=(1, 3, 8, 8)
        )
    macs = next(line for line in comparison.to_text().splitlines() if line.startswith("MACs "))
    assert macs.split() == ["MACs", "3.89", "k", ">=3.89", "k", "?", "?"]
    assert comparison.to_pandas()["macs_ratio"].isna().iloc[0]
    assert "Not counted in b" in comparison.to_text()
