"""Grids of cells with a text in each, for the pictures of execution paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from archcost.plot.drawing.canvas import INK, SOFT
from archcost.plot.drawing.styles import AreaStyle, Point, TextStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import LineStyleType
    from typing_extensions import Unpack

__all__ = ["EDGE", "READ", "arrow", "box", "draw_cells", "frame", "lighter", "say"]

EDGE = "#b5bec6"
READ = "#e9eef2"
_LEAST = 5.0  # points: a text that would be smaller is left out


def draw_cells(
    axes: Axes,
    corner: Point,
    cell: float,
    values: np.ndarray,
    fill: Callable[[int], str],
    gid: str,
    text: Callable[[int], str] = str,
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
    size: float = 10.0, **style: Unpack[AreaStyle],
) -> None:  # fmt: skip
    """Draw a rectangle from its upper left corner, with a text in its middle."""
    from matplotlib.patches import Rectangle

    drawn: AreaStyle = {"facecolor": "none", "edgecolor": EDGE, "linewidth": 0.7, "zorder": 2, **style}
    # The limits are those of the sheet: adding it as a patch would compute them anew, most of the time.
    axes.add_artist(Rectangle((left, upper - tall), wide, tall, gid=gid, **drawn))
    if text and size >= _LEAST:
        say(axes, left + wide / 2, upper - tall / 2, text, size, va="center_baseline", zorder=5)


def frame(
    axes: Axes, left: float, upper: float, wide: float, tall: float, colour: str, gid: str, line: float = 2.2,
    linestyle: LineStyleType = "-",
) -> None:  # fmt: skip
    """Draw an outline over cells."""
    box(axes, left, upper, wide, tall, gid, edgecolor=colour, linewidth=line, linestyle=linestyle, zorder=4)


def arrow(axes: Axes, start: Point, end: Point, colour: str = SOFT, line: float = 1.6) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": line}
    axes.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0}, annotation_clip=False)


def say(axes: Axes, x: float, y: float, text: str, size: float = 10, **style: Unpack[TextStyle]) -> None:
    """Write a text, by default centred on its place."""
    drawn: TextStyle = {"fontsize": size, "color": INK, "ha": "center", "va": "center", **style}
    axes.text(x, y, text, **drawn)


def lighter(colour: str, share: float) -> str:
    """A colour mixed with a ``share`` of white."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (share + (1 - share) * part for part in to_rgb(colour))
    return to_hex((red, green, blue))
