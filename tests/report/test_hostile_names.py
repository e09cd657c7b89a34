"""Names that hold markup, formulas or control characters stay text in every format."""

import csv
import io
import json
import re

import pytest
from rich.console import Console
from torch import nn

import archcost
from archcost.report.text import csv_cell, visible, width_of
from helpers.tables import Tags, body, draw

HOSTILE = [
    "[red]bold[/red]",
    "a|b\\|c",
    "line\nbreak\r",
    "tab\there",
    "\x1b[31mansi\x1b[0m\x07",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd()+1",
    "+1+1",
    "@SUM(A1)",
    "-2+3",
    "'quoted', \"twice\"",
    "n" * 400,
    "модель 模型 é",
    "\u202egnp-exe",
    "lone\ud800",
    "*_`~$x$~`_*",
    ":smile:",
    " ",
]


@pytest.fixture(scope="module")
def hostile():
    model = nn.Sequential()
    for i, name in enumerate(HOSTILE):
        kind = name.replace("\ud800", "")  # Python itself refuses a class of that name
        odd = type(kind, (nn.Linear,), {"extra_repr": lambda self, n=name: n})
        model.add_module(name, odd(2 + i, 3 + i))
    return archcost.analyze(model, input_size=(1, 2))


def has_control(text):
    return [c for c in text if c != "\n" and not c.isprintable()]


def test_hostile_names_stay_text_on_the_terminal(hostile, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert not has_control(hostile.to_text())
    text = hostile.to_text(columns=["type", "params", "details"], full=True)
    assert not has_control(text)
    lines, _ = body(text)
    assert len(lines) == len(HOSTILE)
    for name, line in zip(HOSTILE, lines, strict=True):
        assert line.startswith(visible(name) + " (")
    file = io.StringIO()
    draw(hostile, Console(file=file, force_terminal=True, width=90, color_system="standard"), full=True)
    drawn = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
    assert not has_control(drawn)
    assert "[red]bold[/red]" in drawn
    assert ":smile:" in drawn
    assert "\\x1b[31mansi" in drawn
    assert max(width_of(line) for line in drawn.splitlines()) <= 90
    assert not has_control(repr(hostile))


def test_hostile_names_stay_text_in_markdown(hostile):
    for by in ("modules", "operations"):
        text = hostile.to_markdown(by=by, columns=None if by == "operations" else ["name", "type", "details"])
        assert not has_control(text)
        lines = [line for line in text.splitlines() if line.startswith("|")]
        unescaped = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}
        assert len(unescaped) == 1
        assert "<script" not in text.replace("\\<script", "")


def test_hostile_names_read_back_from_csv_json_and_pandas(hostile):
    text = hostile.to_csv()
    assert not has_control(text)
    rows = list(csv.reader(io.StringIO(text)))
    assert [row[0] for row in rows[2:]] == [csv_cell(name) for name in HOSTILE]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "@", "+", "-2+"))]
    raw = hostile.to_json(by="operations")
    assert raw.isascii()
    assert not has_control(raw)
    names = [row["name"] for row in json.loads(raw)["modules"][1:]]
    assert names == [name.replace("\ud800", "\\ud800") for name in HOSTILE]
    assert list(hostile.to_pandas()["name"])[1:] == HOSTILE
    assert len(hostile.flat(depth=1)) > 10 * len(HOSTILE)
    assert not any(has_control(key) for key in hostile.flat(depth=1))


def test_hostile_names_stay_text_in_html(hostile):
    parser = Tags()
    parser.feed(hostile._repr_html_())
    folds = {"details", "summary"}
    assert parser.tags <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "span", *folds}
    shown = "".join(parser.text)
    assert not has_control(shown)
    for name in HOSTILE:
        assert visible(name) in shown
