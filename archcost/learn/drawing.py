"""The picture of an algorithm's stages: a cell for each number, stages below one another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from archcost.learn.stages import Panel, Stage, texts
from archcost.plot.drawing.canvas import COLOURS, INK, MARGIN, SOFT, check_path, finish, sheet
from archcost.plot.drawing.cells import draw_cells, lighter, say
from archcost.plot.drawing.styles import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["draw"]

_WIDEST, _LEAST = 10.0, 6.6  # inches, as all that follows
_HEAD, _STAGE, _NAME, _GAP = 1.1, 0.62, 0.26, 0.35
_LINE = 0.19
_LETTERS = 12.4  # of a line of text, for each inch
_UP, _DOWN = COLOURS[0], COLOURS[1]
_TITLES = {"fft": "FFT", "winograd": "Winograd", "strassen": "Strassen"}


class _Block(NamedTuple):
    """A panel as it is drawn: the side of a cell, and the place of its upper left corner below the stage."""

    panel: Panel
    cell: float
    left: float
    right: float
    down: float


def draw(
    title: str,
    lines: Sequence[str],
    stages: Sequence[tuple[int, Stage]],
    path: str | os.PathLike[str] | None,
) -> Figure:
    """Draw numbered stages; see `archcost.learn.Steps.draw`."""
    from textwrap import wrap

    check_path(path)
    arranged = [_arranged(stage.panels) for _, stage in stages]
    right = max(block.right for blocks, _ in arranged for block in blocks)
    width = min(max(right + MARGIN, _LEAST), _WIDEST)
    letters = int(_LETTERS * width)
    said = [wrap(stage.text, letters) for _, stage in stages]
    tall = [_STAGE + _LINE * (len(text) - 1) + high for text, (_, high) in zip(said, arranged, strict=True)]
    head = [line for one in lines for line in wrap(one, letters)]
    height = _HEAD + 0.24 * (len(head) - 2) + sum(tall) + MARGIN / 2
    figure, axes = sheet(width, height, _TITLES.get(title, title), *head)
    top = height - _HEAD - 0.24 * (len(head) - 2)
    for (at, stage), text, (blocks, _), used in zip(stages, said, arranged, tall, strict=True):
        say(axes, MARGIN, top - 0.12, f"{at}. {stage.title}", 11, ha="left", weight="bold")
        for line, words in enumerate(text):
            say(axes, MARGIN, top - 0.34 - line * _LINE, words, 8.5, ha="left", color=SOFT)
        below = top - _STAGE - _LINE * (len(text) - 1)
        for block in blocks:
            x, y = block.left, below - block.down
            say(axes, x, y + 0.11, block.panel.name, 8, ha="left", color=INK)
            _draw_panel(axes, block, (x, y), f"{at} {block.panel.name}")
        top -= used
    return finish(figure, path)


def _arranged(panels: Sequence[Panel]) -> tuple[list[_Block], float]:
    """The panels in lines, and the height that they take."""
    room = _WIDEST - 2 * MARGIN
    blocks, left, down, tallest = [], MARGIN, _NAME, 0.0
    longest = max(len(text) for panel in panels for text in texts(panel.values).flat)
    for panel in panels:
        rows, columns = panel.values.shape
        cell = min(max(0.3, 0.085 * longest + 0.1), room / columns, 0.62)
        wide = max(cell * columns, 0.068 * len(panel.name))
        if left > MARGIN and left + wide > MARGIN + room:
            left, down, tallest = MARGIN, down + tallest + _NAME + 0.1, 0.0
        blocks.append(_Block(panel, cell, left, left + wide, down - 0.1))
        left, tallest = left + wide + _GAP, max(tallest, cell * rows)
    return blocks, down + tallest + 0.12


def _draw_panel(axes: Axes, block: _Block, corner: Point, gid: str) -> None:
    values = block.panel.values
    said = texts(values).ravel()
    size = np.abs(values) if np.iscomplexobj(values) else values
    strength = (size / (np.abs(size).max() or 1)).ravel()
    places = np.arange(values.size).reshape(values.shape)
    draw_cells(
        axes, corner, block.cell, places, partial(_fill, strength), gid, lambda at: str(said[at]), largest=9.0
    )


def _fill(strength: NDArray[np.float64], at: int) -> str:
    """Blue for numbers above 0, orange below; 0 is white."""
    value = float(strength[at])
    return lighter(_UP if value > 0 else _DOWN, 1 - 0.45 * abs(value)) if value else "#ffffff"
