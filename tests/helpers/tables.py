"""Printed tables, read back."""

from html.parser import HTMLParser

from archcost.report.document import Asked
from archcost.report.terminal import show


def draw(result, console, **options):
    """What `table` prints, on a console of the test's own."""
    asked = Asked(**options)
    show(result.document(asked), asked, console=console)


SIZES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


def number(text):
    """What a printed number means."""
    text = text.replace(",", "").removesuffix("B")
    value, _, prefix = text.partition(" ")
    return float(value) * SIZES[prefix]


def body(text):
    """The lines of the table between its rules, and the total."""
    lines = text.splitlines()
    rules = [i for i, line in enumerate(lines) if line and not line.strip("─")]
    return lines[rules[0] + 1 : rules[1]], lines[rules[1] + 1]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert all(name == "style" for name, _ in attrs)

    def handle_data(self, data):
        self.text.append(data)
