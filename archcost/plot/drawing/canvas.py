"""Figures without pyplot, colours that are distinct for the colour-blind, axes and legends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from archcost.errors import ArchcostError, SpecError
from archcost.plot.drawing.styles import AreaStyle, LegendStyle, LineStyle, Point

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from typing_extensions import Unpack

# Okabe and Ito 2008; the yellow is left out, which is too light for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK = "#222222"
GREY = "#8a8a8a"
PALE = "#e4e4e4"
SOFT = "#555555"
MARGIN = 0.45  # inches, of the pictures that are drawn on a `sheet`
DASHED = (0, (4, 2))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, its size in inches; raises ArchcostError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArchcostError("pictures need matplotlib: pip install 'archcost[plots]'") from error
    return Figure(figsize=(width, height), facecolor="white")


def check_path(path: str | os.PathLike[str] | None) -> None:
    """Raises SpecError, before the work, where matplotlib cannot write a file of the path's suffix."""
    if path is None:
        return
    formats = new_figure(1, 1).canvas.get_supported_filetypes()
    suffix = Path(path).suffix[1:].lower()
    if suffix not in formats:
        raise SpecError(
            f"{os.fspath(path)!r}: no picture format {suffix!r}; end the name in .png, .svg or .pdf"
        )


def finish(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Write the figure to ``path``, if given, and return it; equal pictures give equal files."""
    if path is not None:
        import matplotlib

        suffix = Path(path).suffix[1:].lower()
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        try:
            with matplotlib.rc_context({"svg.hashsalt": "archcost"}):
                figure.savefig(path, dpi=150, metadata=dates.get(suffix))
        except OSError as error:
            raise ArchcostError(
                f"{os.fspath(path)!r} cannot be written: {error.strerror or error}"
            ) from error
    return figure


def sheet(width: float, height: float, title: str, *lines: str) -> tuple[Figure, Axes]:
    """A figure with a heading, and axes that cover it, in inches."""
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.text(MARGIN, height - 0.34, title, fontsize=14, color=INK, va="center")
    for i, line in enumerate(lines):
        axes.text(MARGIN, height - 0.66 - 0.24 * i, line, fontsize=10, color=SOFT, va="center")
    return figure, axes


def dress(
    axes: Axes, below: str, beside: str, size: float, ticks: float, grid: Literal["both", "y"] = "both"
) -> None:
    """Label the axes of a diagram, and give it a pale grid without a frame."""
    axes.set_xlabel(below, fontsize=size, color=INK)
    axes.set_ylabel(beside, fontsize=size, color=INK)
    axes.tick_params(labelsize=ticks, colors=INK)
    axes.grid(axis=grid, color="#ececec", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def line_key(label: str, **style: Unpack[LineStyle]) -> Line2D:
    """An entry of a legend: a line or a marker."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def patch_key(label: str, **style: Unpack[AreaStyle]) -> Patch:
    """An entry of a legend: an area."""
    from matplotlib.patches import Patch

    return Patch(label=label, **style)


def legend(axes: Axes, marks: Sequence[Artist], at: Point, size: float, **style: Unpack[LegendStyle]) -> None:
    """Draw a legend in a single row; ``at`` is its lower left corner, in inches."""
    layout: LegendStyle = {"loc": "lower left", "ncols": len(marks), "borderpad": 0.2, **style}
    where = axes.transData
    axes.legend(
        handles=marks, fontsize=size, frameon=False, bbox_to_anchor=at, bbox_transform=where, **layout
    )


def colour_of(layer: int) -> str:
    """The colour of a layer, or of a model, by its index."""
    return COLOURS[layer % len(COLOURS)]


def short(text: str, most: int) -> str:
    """The text cut to ``most`` characters, with an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def by(sizes: tuple[int, ...]) -> str:
    """Sizes as ``7 x 7``, with thin spaces, at which no line is broken."""
    return "\u2009×\u2009".join(map(str, sizes))


def once(sizes: tuple[int, ...]) -> str:
    """Sizes as `by` writes them, or a single number where all are equal."""
    return by(sizes[:1] if len({*sizes}) == 1 else sizes)


def spread(wanted: list[float], gap: float) -> list[float]:
    """Heights as near to the wanted ones as labels of height ``gap`` allow, in their order."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    groups: list[list[float]] = []  # sum of the starts that its members want, and how many there are
    for place, i in enumerate(order):
        groups.append([wanted[i] - place * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += count
    starts = [total / count for total, count in groups for _ in range(int(count))]
    placed = [0.0] * len(wanted)
    for place, (i, start) in enumerate(zip(order, starts, strict=True)):
        placed[i] = start + place * gap
    return placed
