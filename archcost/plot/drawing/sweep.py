"""plot.sweep: how costs grow along a sweep, on logarithmic axes, where a power is a straight line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from archcost.analysis.sweep import Sweep
from archcost.errors import SpecError
from archcost.plot.drawing.canvas import INK, check_path, colour_of, dress, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["sweep"]

_MEASURES = {
    "macs": "MACs",
    "peak_memory_bytes": "peak memory",
    "kept_for_backward_bytes": "saved for backward",
    "latency_ms": "latency",
}


def sweep(found: Sweep, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw how costs grow with the side, or the batch: each as multiples of its smallest point.

    Both axes are logarithmic, so that a power is a straight line, with its exponent in the legend.

    Args:
        found: what `archcost.sweep` returned, with two points or more along the side or the batch.
        path: the file to write, in the format of its suffix (.png, .svg, .pdf); it is overwritten.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: fewer than two points run, or an unknown suffix.
    """
    check_path(path)
    along = "side" if len(found.along_side) > 1 else "batch"
    points = found.along_side if along == "side" else found.along_batch
    if len(points) < 2:
        raise SpecError("plot.sweep: the model runs at fewer than two sides or batches; sweep over more")
    figure = new_figure(7.6, 5.2)
    axes = figure.add_axes((0.1, 0.12, 0.86, 0.78))
    at = [getattr(one, along) for one in points]
    powers = {(one.measure, one.along): one.exponent for one in found.growth}
    for number, (measure, name) in enumerate(_MEASURES.items()):
        values = [getattr(one, measure) for one in points]
        if None in values or not values[0]:
            continue
        label = f"{name}, power {powers[measure, along]:.2f}"
        ratios = [value / values[0] for value in values]
        wide = (6, 4, 2, 1)[number]  # lines on each other, as of most CNNs, are all seen
        colour = colour_of(number)
        axes.plot(at, ratios, marker="o", markersize=wide + 3, linewidth=wide, color=colour, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(at if len(at) <= 8 else [at[0], at[len(at) // 2], at[-1]])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    dress(
        axes, f"{along} of the input" if along == "side" else "batch", "multiple of the first point", 11, 10
    )
    axes.legend(frameon=False, fontsize=10)
    axes.set_title(f"How the costs grow: {found.name}", loc="left", fontsize=13, color=INK, pad=10)
    return finish(figure, path)
