"""The examples in docs/ are doctests: every number that a page shows is computed here."""

import doctest
import re
from functools import partial
from pathlib import Path

import pytest

import archcost

DOCS = Path(__file__).parent.parent / "docs"
FENCE = re.compile(r"^```.*$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
EVERY = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
PAGES = [name for name in EVERY if ">>>" in (DOCS / name).read_text(encoding="utf-8")]


def failures(text: str, name: str) -> list[str]:
    """What doctest reports of a page; fences are blanked, so that no output runs into one."""
    report: list[str] = []
    page = doctest.DocTestParser().get_doctest(FENCE.sub("", text), {}, name, name, 0)
    assert page.examples
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(page, out=report.append)
    return report


@pytest.fixture(autouse=True)
def _rules_of_a_page_go_with_it():
    from archcost.rewriting import rule

    with rule.table.temporarily():
        yield


# They train and optimise a network, and time one.
SLOW = ("optimizing.md", "measuring.md")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PAGES]
)
def test_the_page_shows_what_is_true(name):
    report = failures((DOCS / name).read_text(encoding="utf-8"), name)
    assert not report, "".join(report)


def test_the_first_lines_of_the_readme_give_the_numbers_beside_them(monkeypatch):
    monkeypatch.setattr(archcost, "accelerate", partial(archcost.accelerate, seconds=0.1, store=False))
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    lines = readme.partition("```python\n")[2].partition("```")[0].strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(line for line in lines if not line.startswith("print")), names)
    checked = 0
    for line in lines:
        code, _, comment = line.partition("  # ")
        if comment.isdigit():
            assert eval(code, names) == int(comment), line
            checked += 1
    assert checked == 2
    assert names["analysis"].notes == ()


def test_the_readme_is_short():
    assert len((DOCS.parent / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_pictures_and_fields_of_the_usage_page_are_of_what_they_name():
    """Its lines run one after the other, but for those that take long or are of another model."""
    import torch
    import torchvision

    import archcost

    page = (DOCS / "usage.md").read_text(encoding="utf-8")
    lines = page.partition("## From Python")[2].partition("```python\n")[2].partition("```")[0].splitlines()
    wanted = ("plot.", "field", "spec", "weight, ", "x, weight", "eligible")
    model, image = torchvision.models.resnet18().eval(), torch.rand(1, 3, 64, 64)
    names = {"archcost": archcost, "torch": torch, "model": model, "image": image}
    names["analysis"] = archcost.analyze(model, image)
    drawn = []
    for line in lines:
        code = line.partition("  # ")[0]
        if not any(word in code for word in wanted) or "rewrite" in code:
            continue
        if " = " in code.partition("(")[0]:
            exec(code, names)
            continue
        found = eval(code, names)
        if "plot." in code:
            drawn += found
    assert len(drawn) == 10
    window = drawn[1]
    assert "layer3" in window.axes[0].get_title() + "".join(text.get_text() for text in window.texts)


def test_a_wrong_number_would_be_found():
    assert failures("```python\n>>> 2 * 3\n7\n```\n", "wrong")
    assert not failures("```python\n>>> 2 * 3\n6\n```\n", "right")


def test_the_pages_that_teach_are_among_them():
    assert {"layer-arithmetic.md", "receptive-fields.md", "paths.md"} <= set(PAGES)


@pytest.mark.parametrize("path", ["native", "direct", "im2col", "strassen", "winograd", "fft"])
def test_every_kind_of_path_has_a_page_that_the_overview_links_to(path):
    assert f"paths/{path}.md" in PAGES
    assert f"](paths/{path}.md)" in (DOCS / "paths.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EVERY)
def test_every_link_leads_somewhere(name):
    """Pages, source files and pictures; those of the web are not looked up."""
    page = DOCS / name
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


ANCHOR = re.compile(r"\]\(([^)#:]*)#([^)]*)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    heads = HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", EVERY)
def test_every_link_to_a_heading_leads_to_one(name):
    page = DOCS / name
    for target, anchor in ANCHOR.findall(page.read_text(encoding="utf-8")):
        assert anchor in anchors(page.parent / target if target else page), f"{target}#{anchor}"


def test_every_picture_is_shown():
    pages = [*(DOCS / name for name in EVERY), DOCS.parent / "README.md"]
    shown = "".join(page.read_text(encoding="utf-8") for page in pages)
    for picture in (DOCS / "pictures").iterdir():
        assert f"pictures/{picture.name})" in shown, picture.name
