"""Ignores of `archcost check`: comments on a finding's lines, patterns, and those that nothing needs."""

from pathlib import Path

import pytest

import archcost
from archcost.integrations.checking.ignores import comments_in

NET = """
from torch import nn


def conv(kernel):
    return nn.Conv2d(32, 32, kernel, padding=kernel // 2)  {inner}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = conv(5)  {first}
        self.text = "# archcost: ignore"
        self.second = conv(5)  {second}

    def forward(self, x):
        return self.second(self.first(x).relu())
"""
TOML = """
{more}
[tool.archcost.models.net]
spec = "net.py:Net"  {spec}
input_size = [1, 32, 16, 16]
"""


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A function: the findings of a project with these comments and settings."""
    monkeypatch.chdir(tmp_path)

    def check(more="", spec="", select=None, **comments):
        named = {"inner": "", "first": "", "second": "", **comments}
        Path("net.py").write_text(NET.format(**named))
        Path("pyproject.toml").write_text(TOML.format(more=more, spec=spec))
        return archcost.check(select=select, store=False, progress=False)

    return check


def shown(result):
    return [(one.code, one.place.file, one.place.line, one.modules) for one in result]


BOTH = [("AC101", "net.py", 6, ("first", "second"))]


def test_without_a_comment_the_line_has_its_finding(found):
    assert shown(found()) == BOTH


@pytest.mark.parametrize(
    "comment",
    [
        "# archcost: ignore",
        "# archcost:ignore[AC101]",
        "# why  # archcost: ignore[AC205, small-kernels]",
        "# archcost: ignore[AC1]",
    ],
)
def test_a_comment_on_the_line_ignores_all_codes_or_those_named(found, comment):
    result = found(inner=comment)
    assert result.hidden == 2
    assert [one.code for one in result] == ["AC001"] * ("AC205" in comment)
    assert found(inner=comment, select=["AC101"]).findings == ()


def test_a_comment_on_the_line_that_calls_ignores_what_it_leads_to(found):
    assert shown(found(first="# archcost: ignore[AC101]")) == [("AC101", "net.py", 6, ("second",))]
    both = found(first="# archcost: ignore[AC101]", second="# archcost: ignore")
    assert (shown(both), both.hidden) == ([], 2)


def test_a_comment_in_pyproject_ignores_for_a_whole_model(found):
    assert shown(found(spec="# archcost: ignore[AC1]")) == []


@pytest.mark.parametrize("pattern", ["first", "f*", "net:first", "net:f*"])
def test_a_pattern_ignores_modules_by_name(found, pattern):
    result = found(f'[tool.archcost.ignore]\n"{pattern}" = ["AC101"]\n')
    assert shown(result) == [("AC101", "net.py", 6, ("second",))]


def test_a_pattern_ignores_files(found):
    assert shown(found('[tool.archcost.ignore]\n"n*.py" = ["AC1"]\n')) == BOTH[:0]


def test_ignores_that_nothing_needs_are_reported_where_they_stand(found):
    result = found(
        '[tool.archcost.ignore]\n"third" = ["AC101"]\n',
        inner="# archcost: ignore[AC106]",
        second="# archcost: ignore[AC999]",
    )
    texts = [str(one) for one in result]
    column = NET.splitlines()[5].index("{inner}") + 1
    texts.sort(key=lambda text: " AC101 Conv" in text)
    assert texts.pop().startswith("net.py:6:")
    assert texts[0].startswith(f"net.py:6:{column}: AC001 ignore[AC106] hides nothing here: remove it")
    assert "AC001 there is no code 'AC999'; archcost check --list" in texts[1]
    assert texts[2].startswith("pyproject.toml:3: AC001 the ignore of 'third' hides nothing: remove it")
    assert len({one.fingerprint for one in result}) == 4


def test_what_was_not_looked_for_is_not_called_unused(found):
    more = '[tool.archcost.ignore]\n"third" = ["AC104"]\n'
    assert shown(found(more, inner="# archcost: ignore[AC104]")) == BOTH
    some = found(inner="# archcost: ignore[AC106]", select=["AC001", "AC101"])
    assert [one.code for one in some] == ["AC101"]


def test_a_comment_where_a_call_ends_holds_where_it_begins():
    text = "x = f(g(1),\n    g(\n        1,\n    ))  # archcost: ignore[AC1]\ny = g(2)\n"
    assert {line: [one.line for one in held] for line, held in comments_in(text).items()} == {2: [4], 4: [4]}


def test_comments_are_those_of_python_not_of_texts_and_broken_files_have_none():
    text = 'x = "# archcost: ignore"\ny = 1  # archcost: ignore[AC1]\n'
    assert {line: [(one.words, one.column)] for line, [one] in comments_in(text).items()} == {
        2: [(("AC1",), 8)]
    }
    assert comments_in("x = (  # archcost: ignore\n") in ({}, comments_in("x = 1  # archcost: ignore\n"))
    assert comments_in('a = 1  # archcost: ignore\n"', is_toml=True).keys() == {1}
