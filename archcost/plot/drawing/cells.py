"""Grids of cells with a text in each: what the pictures of the execution paths are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from archcost.plot.drawing.canvas import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EDGE", "SOFT", "arrow", "draw_cells", "frame", "lighter", "say"]

EDGE = "#b5bec6"
SOFT = "#555555"
_LEAST = 5.0  # points: a text that would be smaller is left out


def draw_cells(
    axes: Axes,
    corner: tuple[float, float],
    cell: float,
    values: np.ndarray,
    fill: Callable[[Any], str],
    gid: str,
    text: Callable[[Any], str] = str,
    largest: float = 11.0,
) -> None:
    """A box for each entry of a matrix, its upper left corner given; texts fit the longest of them."""
    from matplotlib.patches import Rectangle

    left, upper = corner
    texts = [[text(value) for value in row] for row in values]
    longest = max((len(said) for row in texts for said in row), default=1)
    size = min(largest, cell * 72 * 0.45, cell * 72 * 1.3 / max(longest, 1))
    for r, row in enumerate(values):
        for c, value in enumerate(row):
            x, y = left + c * cell, upper - (r + 1) * cell
            box = Rectangle(
                (x, y), cell, cell, facecolor=fill(value), edgecolor=EDGE, linewidth=0.7, zorder=2
            )
            box.set_gid(gid)
            axes.add_patch(box)
            if texts[r][c] and size >= _LEAST:
                middle: dict[str, Any] = {"ha": "center", "va": "center_baseline", "zorder": 5}
                axes.text(x + cell / 2, y + cell / 2, texts[r][c], fontsize=size, color=INK, **middle)


def frame(
    axes: Axes, left: float, upper: float, wide: float, tall: float, colour: str, gid: str, line: float = 2.2
) -> None:
    """An outline over cells."""
    from matplotlib.patches import Rectangle

    box = Rectangle(
        (left, upper - tall), wide, tall, facecolor="none", edgecolor=colour, linewidth=line, zorder=4
    )
    box.set_gid(gid)
    axes.add_patch(box)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = SOFT) -> None:
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "color": colour,
        "linewidth": 1.6,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", end, start, arrowprops=style, annotation_clip=False)


def say(axes: Axes, x: float, y: float, text: str, size: float = 10, **style: Any) -> None:
    """A text, by default centred on its place."""
    axes.text(x, y, text, **{"fontsize": size, "color": INK, "ha": "center", "va": "center", **style})


def lighter(colour: str, share: float) -> str:
    """A colour mixed with so much white."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (share + (1 - share) * part for part in to_rgb(colour))
    return to_hex((red, green, blue))
