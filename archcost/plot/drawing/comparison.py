"""plot.comparison: two models side by side: their totals, and where along the depth their MACs lie."""

from __future__ import annotations

import os
from itertools import accumulate
from typing import TYPE_CHECKING

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.analysis.budget import MEASURES
from archcost.analysis.profile import layer_costs
from archcost.errors import SpecError
from archcost.plot.drawing.canvas import (
    GREY,
    INK,
    SOFT,
    check_path,
    colour_of,
    dress,
    finish,
    new_figure,
    short,
)
from archcost.report.units import ratio_text, si_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import nn

    from archcost.trace.inputs import InputSize

__all__ = ["comparison"]

_LABELS = {
    "params": "parameters",
    "macs": "MACs",
    "peak_memory": "peak memory",
    "kept_for_backward": "saved for backward",
    "depth": "weighted layers deep",
}


def comparison(
    a: nn.Module | str | Analysis,
    b: nn.Module | str | Analysis,
    *,
    input_size: InputSize | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw two models: each total of the second over that of the first, and the growth of MACs with depth.

    Args:
        a, b: modules, SPECs, or Analyses.
        input_size: as in `archcost.analyze`, for models that are not an Analysis.
        path: the file to write, in the format of its suffix (.png, .svg, .pdf); it is overwritten.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: a model without weighted layers, or an unknown suffix.
    """
    check_path(path)
    pair = [
        analysis_of("plot.comparison", one, input_size=None if isinstance(one, Analysis) else input_size)
        for one in (a, b)
    ]
    for one in pair:
        if not layer_costs(one):
            raise SpecError(f"plot.comparison: {one.name} has no layer with weights and no matrix product")
    figure = new_figure(9.4, 4.6)
    _totals(figure.add_axes((0.19, 0.14, 0.33, 0.7)), *pair)
    _depth(figure.add_axes((0.63, 0.14, 0.35, 0.7)), pair)
    names = " and ".join(short(one.name.rpartition(":")[2] or one.name, 30) for one in pair)
    figure.text(0.02, 0.93, f"Costs of {names}", fontsize=13, color=INK)
    return finish(figure, path)


def _totals(axes: Axes, a: Analysis, b: Analysis) -> None:
    """A bar for each total: b over a, with both numbers."""
    rows = []
    for key, label in _LABELS.items():
        old, new = MEASURES[key].of(a), MEASURES[key].of(b)
        if old and new is not None:
            rows.append((label, new / old, f"{MEASURES[key].show(old)} → {MEASURES[key].show(new)}"))
    places = range(len(rows), 0, -1)
    longest = max(1.0, *(ratio for _, ratio, _ in rows))
    axes.barh(places, [ratio for _, ratio, _ in rows], height=0.5, color=colour_of(1), alpha=0.85, zorder=2)
    axes.axvline(1, color=GREY, linewidth=1.2, linestyle=(0, (5, 3)), zorder=3)
    for place, (_, ratio, text) in zip(places, rows, strict=True):
        text = f"{ratio_text(ratio)}   {text}"
        white = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.text(0, place + 0.38, text, fontsize=8.5, color=SOFT, va="center", zorder=4, bbox=white)
    axes.set_yticks(list(places), [label for label, _, _ in rows])
    axes.set_xlim(0, 1.08 * longest)
    axes.set_ylim(0.4, len(rows) + 0.75)
    dress(axes, "second over first", "", 10.5, 9.5)


def _depth(axes: Axes, pair: list[Analysis]) -> None:
    """MACs summed up from the input on, over the layers."""
    for i, one in enumerate(pair):
        sums = list(accumulate(layer.macs or 0 for layer in layer_costs(one)))
        axes.step(
            [0, *range(1, len(sums) + 1)], [0, *sums], where="post", color=colour_of(i), linewidth=2, zorder=3
        )
        name = short(one.name.rpartition(":")[2] or one.name, 18)
        axes.plot(
            [len(sums)],
            [sums[-1]],
            marker="o",
            color=colour_of(i),
            markersize=5,
            label=f"{name}: {si_text(sums[-1])}",
        )
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(lambda value, _: si_text(round(value)))
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, fontsize=9, frameon=False)
    dress(axes, "layers, from the input on", "MACs up to there", 10.5, 9.5)
