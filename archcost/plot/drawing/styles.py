"""Types of what is drawn: points, and the keyword arguments of matplotlib that the pictures use."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from matplotlib.typing import LegendLocType, LineStyleType, MarkerType

__all__ = ["AreaStyle", "LegendStyle", "LineStyle", "Point", "TextStyle"]

Point = tuple[float, float]
"""A point: x to the right, y upwards."""


class AreaStyle(TypedDict, total=False):
    """The style of a rectangle or another area."""

    alpha: float
    edgecolor: str
    facecolor: str
    hatch: str
    linestyle: LineStyleType
    linewidth: float
    zorder: float


class LineStyle(TypedDict, total=False):
    """The style of a line and its markers."""

    color: str
    linestyle: LineStyleType
    linewidth: float
    marker: MarkerType
    markeredgecolor: str
    markeredgewidth: float
    markerfacecolor: str
    markersize: float
    zorder: float


class TextStyle(TypedDict, total=False):
    """The style of a text."""

    color: str
    fontsize: float
    gid: str
    """The name in an SVG file."""
    ha: str
    linespacing: float
    rotation: float
    va: str
    weight: str
    zorder: float


class LegendStyle(TypedDict, total=False):
    """The layout of a legend; distances are in font sizes."""

    borderpad: float
    columnspacing: float
    handlelength: float
    handletextpad: float
    labelspacing: float
    loc: LegendLocType
    ncols: int
