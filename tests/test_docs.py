"""The examples in docs/ are doctests: every number that a page shows is computed here."""

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
FENCE = re.compile(r"^```.*$", re.MULTILINE)
PAGES = sorted(path.name for path in DOCS.glob("*.md") if ">>>" in path.read_text(encoding="utf-8"))


def failures(text: str, name: str) -> list[str]:
    """What doctest reports of a page; fences are blanked, so that no output runs into one."""
    report: list[str] = []
    page = doctest.DocTestParser().get_doctest(FENCE.sub("", text), {}, name, name, 0)
    assert page.examples
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(page, out=report.append)
    return report


@pytest.mark.parametrize("name", PAGES)
def test_the_page_shows_what_is_true(name):
    report = failures((DOCS / name).read_text(encoding="utf-8"), name)
    assert not report, "".join(report)


def test_a_wrong_number_would_be_found():
    assert failures("```python\n>>> 2 * 3\n7\n```\n", "wrong")
    assert not failures("```python\n>>> 2 * 3\n6\n```\n", "right")


def test_the_pages_that_teach_are_among_them():
    assert {"layer-arithmetic.md", "receptive-fields.md"} <= set(PAGES)
