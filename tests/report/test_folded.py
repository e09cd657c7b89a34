"""HTML in notebooks: totals open, tables and many notes folded, by ``<details>`` alone."""

import re
from html.parser import HTMLParser

import pytest
from torch import nn

import archcost
from archcost.report.document import Asked, Column, Document, Table
from archcost.report.grid import Entry
from archcost.report.html import to_html


class Outline(HTMLParser):
    """The texts of a page, each with the number of closed ``<details>`` around it."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.in_summary = [], {}, False
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.in_summary |= tag == "summary"
        if tag == "details":
            self.open.append("open" in dict(attrs))

    def handle_endtag(self, tag):
        self.in_summary &= tag != "summary"
        if tag == "details":
            self.open.pop()

    def handle_data(self, data):
        hidden = self.open[:-1] if self.in_summary else self.open
        self.texts.setdefault(data.strip(), []).append(hidden.count(False))


def document(rows, *, total=False, notes=0, title=None):
    columns = [Column("name", "Name", "", lambda row: row, show=str, dtype="str")]
    lines = [Entry(((str(row), ""),), (), total=total and row == rows - 1) for row in range(rows)]
    table = Table("t", columns, lambda: lines, lines=lambda _: lines, title=title)
    said = [("Note", f"number {n}") for n in range(notes)]
    return Document("s/1", [("Model", "")], [table], [table], dict, notes=lambda _: said)


def folded(made):
    return to_html(made, Asked(), folded=True)


def test_the_total_is_open_and_the_tree_folded():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 5, 3))
    texts = Outline(archcost.analyze(model, input_size=(1, 3, 8, 8))._repr_html_()).texts
    assert texts["Total"] == [0, 1, 1]
    assert texts["3 rows"] == [0]
    assert texts["Every module, and the footnotes"] == [0]
    assert texts["(ReLU)"] == [1]
    assert texts["Totals:"] == [1]


@pytest.mark.parametrize(("rows", "level"), [(1, 0), (12, 0), (13, 1)])
def test_a_table_without_totals_is_open_where_it_is_short(rows, level):
    texts = Outline(folded(document(rows))).texts
    assert texts["0"] == [level]
    assert texts[f"{rows} row{'s' * (rows > 1)}"] == [0]


def test_a_table_of_nothing_but_a_total_has_nothing_to_unfold():
    assert "<details" not in folded(document(1, total=True))
    assert "<details" not in folded(document(0))


def test_the_title_of_a_table_stands_above_its_total_once():
    texts = Outline(folded(document(3, total=True, title=("Layers", "of a net")))).texts
    assert texts["Layers:"] == [0]


@pytest.mark.parametrize(("notes", "last"), [(8, 0), (9, 1)])
def test_many_notes_are_folded_after_the_first(notes, last):
    texts = Outline(folded(document(1, notes=notes))).texts
    assert texts["number 0"] == [0]
    assert texts[f"number {notes - 1}"] == [last]
    assert ("1 more note" in texts) == bool(last)


def test_to_html_is_a_page_without_folds():
    assert "<details" not in to_html(document(40, notes=40), Asked())


def test_colours_are_those_of_the_page_in_light_and_dark():
    page = folded(document(40, total=True, notes=40))
    assert not re.search(r"(?<!-)color:(?!inherit)|background:(?!transparent)|<(script|style|link)", page)
