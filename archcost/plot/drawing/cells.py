"""Grids of cells with a text in each, for the pictures of execution paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from archcost.plot.drawing.canvas import INK, SOFT, Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EDGE", "READ", "arrow", "box", "draw_cells", "frame", "lighter", "say"]

EDGE = "#b5bec6"
READ = "#e9eef2"
_LEAST = 5.0  # points: a text that would be smaller is left out


def draw_cells(
    axes: Axes,
    corner: Place,
    cell: float,
    values: np.ndarray,
    fill: Callable[[Any], str],
    gid: str,
    text: Callable[[Any], str] = str,
    largest: float = 11.0,
) -> None:
    """Draw a box for each entry of a matrix, from its upper left ``corner``; the longest text fits."""
    left, upper = corner
    longest = max((len(text(value)) for value in values.flat), default=1)
    size = min(largest, cell * 72 * 0.45, cell * 72 * 1.3 / max(longest, 1))
    for (r, c), value in np.ndenumerate(values):
        place = (left + c * cell, upper - r * cell)
        box(axes, *place, cell, cell, gid, text(value), size, facecolor=fill(value))


def box(
    axes: Axes, left: float, upper: float, wide: float, tall: float, gid: str | None = None, text: str = "",
    size: float = 10.0, **style: Any,
) -> None:  # fmt: skip
    """Draw a rectangle from its upper left corner, with a text in its middle."""
    from matplotlib.patches import Rectangle

    style = {"facecolor": "none", "edgecolor": EDGE, "linewidth": 0.7, "zorder": 2, **style}
    axes.add_patch(Rectangle((left, upper - tall), wide, tall, gid=gid, **style))
    if text and size >= _LEAST:
        say(axes, left + wide / 2, upper - tall / 2, text, size, va="center_baseline", zorder=5)


def frame(
    axes: Axes, left: float, upper: float, wide: float, tall: float, colour: str, gid: str, line: float = 2.2,
    **style: Any,
) -> None:  # fmt: skip
    """Draw an outline over cells."""
    box(axes, left, upper, wide, tall, gid, edgecolor=colour, linewidth=line, zorder=4, **style)


def arrow(axes: Axes, start: Place, end: Place, colour: str = SOFT, line: float = 1.6) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": line}
    axes.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0}, annotation_clip=False)


def say(axes: Axes, x: float, y: float, text: str, size: float = 10, **style: Any) -> None:
    """Write a text, by default centred on its place."""
    axes.text(x, y, text, **{"fontsize": size, "color": INK, "ha": "center", "va": "center", **style})


def lighter(colour: str, share: float) -> str:
    """A colour mixed with a ``share`` of white."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (share + (1 - share) * part for part in to_rgb(colour))
    return to_hex((red, green, blue))
