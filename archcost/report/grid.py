"""Layout of tables as text: labels and cells in columns, with or without a limit on the width of a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from archcost.report.text import fit, fit_middle, width_of

__all__ = ["Entry", "Grid", "Head", "Piece", "lay_out", "stacked_head", "that_fit", "widths_within"]

Piece = tuple[str, str]
"""A text and its style, by a name that rich knows; an empty style is none."""

GAP = "  "
# A longer label would push the numbers of all rows out of sight; only those of its own row move.
LONGEST_PADDED = 100
# The least width to which labels and texts are cut.
_SHORTEST = 12
# A text of at least this ``keep`` is cut where it is too long, not hidden.
_TELLING = 90
_UNKNOWN = "yellow"


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a column; ``keep`` as in `Column`.

    A column is shown only together with those of its ``group`` whose ``keep`` is at least as high.
    """

    text: str
    keep: float = 0
    right: bool = True
    group: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a table: the label in pieces, and a cell for each column.

    Attributes:
        remark: follows the label where there is room for it.
        indent: the level in a tree, for HTML.
        total: whether the line is a total, below a rule.
    """

    label: tuple[Piece, ...]
    cells: tuple[str, ...]
    style: str = ""
    remark: str = ""
    indent: int = 0
    total: bool = False

    def label_width(self, remark: bool = True) -> int:
        """Width of the label in terminal cells, with or without the remark."""
        return sum(width_of(text) for text, _ in self.label) + (width_of(self.remark) if remark else 0)


@dataclass(frozen=True)
class Grid:
    """A table as text: the head over the labels, the heads of the columns, and the lines."""

    label: str
    heads: Sequence[Head]
    entries: Sequence[Entry] = field(default=())
    title: tuple[str, str] | None = None
    folded: str = ""

    def cell_width(self, column: int) -> int:
        """Width of the widest cell of a column."""
        return max((width_of(entry.cells[column]) for entry in self.entries), default=0)

    def is_empty(self, column: int) -> bool:
        """Whether no cell of a column has a value."""
        return all(entry.cells[column] in ("", "-") for entry in self.entries)


def stacked_head(text: str) -> list[str]:
    """A head on two lines, broken at the space nearest its middle."""
    spaces = [i for i, c in enumerate(text) if c == " "]
    if not spaces:
        return ["", text]
    cut = min(spaces, key=lambda i: abs(2 * i - len(text)))
    return [text[:cut], text[cut + 1 :]]


def _widths(grid: Grid, stacked: bool) -> list[int]:
    return [
        max(grid.cell_width(i), *(width_of(t) for t in (stacked_head(head.text) if stacked else [head.text])))
        for i, head in enumerate(grid.heads)
    ]


def _least(grid: Grid, column: int, width: int) -> int:
    """The least width of a column: texts can be cut, numbers and heads cannot."""
    head = grid.heads[column]
    return width if head.right else min(width, max(_SHORTEST, *map(width_of, stacked_head(head.text))))


def _squeezed(grid: Grid, widths: list[int], over: int) -> list[int]:
    """The widths with the widest texts cut, until the line is ``over`` cells shorter."""
    for column in sorted(range(len(widths)), key=lambda i: -widths[i]):
        cut = max(0, min(over, widths[column] - _least(grid, column, widths[column])))
        widths[column], over = widths[column] - cut, over - cut
    return widths


def _longest(width: int) -> int:
    """The most that labels take of a line that is too short for all."""
    return max(24, width // 2)


def that_fit(grid: Grid, width: int | None, asked: bool = False) -> list[int]:
    """Indices of the columns that fit into ``width`` beside the labels, those of the highest ``keep`` first.

    Columns without any value are hidden first; a telling text too long for the room that is left is cut.
    Columns that the user ``asked`` for are hidden from the last on, and only once the labels are as short as
    possible.
    """
    everything = list(range(len(grid.heads)))
    if width is None:
        return everything
    # A few very long names must not hide the numbers of the others.
    label = min(max((e.label_width(remark=False) for e in grid.entries), default=0), _longest(width))
    label = max(min(label, _SHORTEST) if asked else label, width_of(grid.label))
    widths = _widths(grid, True)
    needs = [len(GAP) + (_least(grid, i, wide) if asked else wide) for i, wide in enumerate(widths)]
    first = everything if asked else sorted(everything, key=lambda i: (grid.is_empty(i), -grid.heads[i].keep))
    kept: set[int] = set()
    tight = False
    for column in first:
        if tight and grid.is_empty(column):
            break
        head = grid.heads[column]
        beside = (i for i, h in enumerate(grid.heads) if h.group == head.group and h.keep >= head.keep)
        more = {column, *(beside if head.group else ())}
        if not kept or label + sum(needs[i] for i in kept | more) <= width:
            kept |= more
        elif asked:
            break
        else:
            tight = True
            room = width - label - sum(needs[i] for i in kept)
            if (
                head.keep >= _TELLING
                and not head.group
                and room >= len(GAP) + _least(grid, column, widths[column])
            ):
                needs[column] = room
                kept.add(column)
    return sorted(kept)


def widths_within(grid: Grid, width: int | None) -> tuple[int, list[int], bool]:
    """The widths of the labels and of each column within that of a line, and whether heads are stacked."""
    room = max((e.label_width() for e in grid.entries), default=0)
    room = max(room, width_of(grid.label))
    stacked = False
    widths = _widths(grid, False)
    if width is None:
        return min(room, LONGEST_PADDED), widths, stacked
    short = max([width_of(grid.label), *(e.label_width(remark=False) for e in grid.entries)])
    if short + sum(widths) + len(GAP) * len(widths) > width:
        stacked, widths = any(" " in head.text for head in grid.heads), _widths(grid, True)
        over = max(width_of(grid.label), min(short, _longest(width))) + sum(widths) - width
        widths = _squeezed(grid, widths, over + len(GAP) * len(widths))
    return max(1, min(room, width - sum(widths) - len(GAP) * len(widths))), widths, stacked


def lay_out(grid: Grid, width: int | None) -> list[list[Piece]]:
    """The lines of the table in pieces, heads first; no line is wider than ``width``."""
    room, widths, stacked = widths_within(grid, width)
    heads = [stacked_head(h.text) if stacked else [h.text] for h in grid.heads]
    lines: list[list[Piece]] = []
    for level in range(2 if stacked else 1):
        label = grid.label if level == (1 if stacked else 0) else ""
        cells = [_aligned(h[level], w, g.right) for h, w, g in zip(heads, widths, grid.heads, strict=True)]
        lines.append([(_padded(fit(label, room), room) + "".join(GAP + c for c in cells), "bold")])
    rule = "─" * (room + sum(widths) + len(GAP) * len(widths))
    lines.append([(rule, "dim")])
    for entry in grid.entries:
        if entry.total and len(lines) > (3 if stacked else 2):
            lines.append([(rule, "dim")])
        lines.append(_line(entry, room, widths, grid.heads, width is not None))
    return lines


def _line(entry: Entry, room: int, widths: list[int], heads: Sequence[Head], limited: bool) -> list[Piece]:
    pieces: list[Piece] = []
    label = [*entry.label]
    if entry.remark and (not limited or entry.label_width() <= room):
        label.append((entry.remark, "dim"))
    left = room
    if limited:
        label = _shortened(label, room)
    for text, style in label:
        cut = fit(text, left) if limited else text
        pieces.append((cut, style or entry.style))
        left -= width_of(cut)
        if cut != text:
            break
    pieces.append((" " * max(left, 0), ""))
    for cell, width, head in zip(entry.cells, widths, heads, strict=True):
        style = entry.style
        if cell == "?" or cell.startswith(">="):
            style = _UNKNOWN
        elif cell in ("0", "-", "1x"):
            style = "dim"
        pieces.append((GAP + _aligned(fit(cell, width), width, head.right), style))
    return pieces


def _shortened(label: list[Piece], room: int) -> list[Piece]:
    """The label with its longest piece cut in the middle, where it is too long."""
    over = sum(width_of(text) for text, _ in label) - room
    longest = max(range(len(label)), key=lambda at: width_of(label[at][0]), default=0)
    if over <= 0:
        return label
    text, style = label[longest]
    return [*label[:longest], (fit_middle(text, width_of(text) - over), style), *label[longest + 1 :]]


def _padded(text: str, width: int) -> str:
    return text + " " * max(0, width - width_of(text))


def _aligned(text: str, width: int, right: bool) -> str:
    return " " * max(0, width - width_of(text)) + text if right else _padded(text, width)
