"""plot.frontier: error against cost, a line for each way to choose."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from archcost.errors import SpecError
from archcost.optimizing.frontier import Frontier
from archcost.plot.drawing.canvas import check_path, colour_of, finish, line_key, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["frontier"]

_WORDS = {"macs": "MACs", "params": "parameters", "memory": "bytes of weights", "latency": "time"}


def frontier(found: Frontier, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the error of the outputs over the share of a resource: a line for each way to choose.

    Args:
        found: the result of `archcost.frontier`.
        path: the file to write, in the format of its suffix (.png, .svg, .pdf); it is overwritten.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: there are no points, or an unknown suffix.
    """
    check_path(path)
    if not found.points:
        raise SpecError("plot.frontier: no point was reached; the notes of the frontier say why")
    figure = new_figure(7.2, 4.6)
    axes = figure.add_axes((0.11, 0.13, 0.86, 0.76))
    keys = []
    for at, choice in enumerate(dict.fromkeys(one.choice for one in found.points)):
        points = sorted((one.reached, one.error) for one in found.points if one.choice == choice)
        colour, width = colour_of(at), 2.2 if at == 0 else 1.2
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, color=colour, marker="o", markersize=4, linewidth=width)
        keys.append(line_key(choice, color=colour, marker="o", markersize=4, linewidth=width))
    axes.set_yscale("log")
    axes.set_xlabel(f"share of the {_WORDS[found.resource]}")
    axes.set_ylabel("error of the outputs, ||new - old|| / ||old||")
    axes.set_title(f"{found.model_name}: what a budget costs", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(handles=keys, frameon=False)
    return finish(figure, path)
