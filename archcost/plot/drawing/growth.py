"""plot.growth: the receptive field over depth, for a model or several."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.analysis.growth import DepthPoint, field_steps
from archcost.errors import SpecError
from archcost.plot.drawing.canvas import (
    GREY,
    INK,
    SOFT,
    check_path,
    colour_of,
    dress,
    finish,
    line_key,
    new_figure,
    short,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import nn

    from archcost.trace.inputs import InputSize

__all__ = ["growth"]


def growth(
    *models: nn.Module | str | Analysis,
    input_size: InputSize | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw the receptive field over depth: a line for each model, a dot for each layer.

    Layers are the operations with weights and the poolings whose output is a spatial map, in order of
    execution. The height is the size in pixels of the input, the largest over the axes. A hollow dot is a
    layer whose exact receptive field is the whole input; its height is that of `ReceptiveField.local`.

    Args:
        models: modules, SPECs, or Analyses.
        input_size: as in `archcost.analyze`, for models that are not an Analysis.
        path: the file to write, in the format of its suffix (.png, .svg, .pdf); it is overwritten.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: no model, one without a spatial map, or an unknown suffix.
    """
    check_path(path)
    made = all(isinstance(model, Analysis) for model in models)
    given = (None if isinstance(model, Analysis) and not made else input_size for model in models)
    pairs = zip(models, given, strict=True)
    analyses = tuple(analysis_of("plot.growth", model, input_size=size) for model, size in pairs)
    if not analyses:
        raise SpecError("plot.growth: no model given; give at least one")
    walks = [field_steps(analysis) for analysis in analyses]
    for analysis, walk in zip(analyses, walks, strict=True):
        if not walk:
            raise SpecError(f"plot.growth: {analysis.name} has no layer whose output is a spatial map")
    figure = new_figure(9.4, 5.4)
    axes = figure.add_axes((0.085, 0.19, 0.68, 0.715))
    longest = max(map(len, walks))
    highest = max(step.size for walk in walks for step in walk)
    axes.set_xlim(0, longest + 0.5 + longest * 0.01)
    sizes = _input_sizes(analyses)
    axes.set_ylim(0, 1.06 * max(highest, *(sizes if min(sizes) <= 2.5 * highest else [highest])))
    for i, walk in enumerate(walks):
        _draw_walk(axes, walk, colour_of(i))
    drawn = [size for size in sizes if size <= axes.get_ylim()[1]]
    for size in drawn:
        axes.axhline(size, color=GREY, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
    _name_ends(axes, analyses, walks, drawn)
    _dress(axes, any(step.is_global for walk in walks for step in walk))
    title = analyses[0].name if len(analyses) == 1 else f"{len(analyses)} models"
    axes.set_title(f"Receptive field over depth: {title}", loc="left", fontsize=13, color=INK, pad=12)
    return finish(figure, path)


def _input_sizes(analyses: tuple[Analysis, ...]) -> list[int]:
    return sorted({max(axis.size for axis in analysis.fields.axes) for analysis in analyses})


def _draw_walk(axes: Axes, walk: list[DepthPoint], colour: str) -> None:
    depth = range(1, len(walk) + 1)
    sizes = [step.size for step in walk]
    largest = [max(sizes[: i + 1]) for i in range(len(sizes))]
    axes.plot([0, *depth], [1, *largest], drawstyle="steps-post", color=colour, linewidth=2, zorder=3)
    area = 34 if len(walk) <= 60 else 16
    for marks, face in ((False, colour), (True, "white")):
        here = [(at, step.size) for at, step in zip(depth, walk, strict=True) if step.is_global is marks]
        axes.scatter(
            [at for at, _ in here],
            [size for _, size in here],
            s=area,
            facecolor=face,
            edgecolor=colour,
            linewidth=1.3,
            zorder=4,
            clip_on=False,
            gid="global" if marks else "local",
        )


def _name_ends(
    axes: Axes, analyses: tuple[Analysis, ...], walks: list[list[DepthPoint]], inputs: list[int]
) -> None:
    """Write the models' names and largest sizes, and the input's, at the right without overlap."""
    everything = []
    for i, (analysis, walk) in enumerate(zip(analyses, walks, strict=True)):
        size = max(step.size for step in walk)
        everything.append((f"{short(_bare(analysis.name), 20)}: {size} px", size, len(walk), colour_of(i)))
    everything += [(f"input: {size} px", size, 0, GREY) for size in inputs]
    low, high = axes.get_ylim()
    heights = spread([float(size) for _, size, _, _ in everything], 0.052 * (high - low))
    right = axes.get_xlim()[1]
    for (text, size, at, colour), height in zip(everything, heights, strict=True):
        axes.annotate(
            text,
            (right, size),
            xytext=(1.035, height),
            textcoords=("axes fraction", "data"),
            color=SOFT if colour == GREY else colour,
            fontsize=10.5,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
        )
        if at:
            axes.plot([at, right], [size, size], color=colour, linewidth=0.8, linestyle=":", zorder=2)


def _bare(name: str) -> str:
    """The name of a model without the source of its SPEC."""
    return name.rpartition(":")[2] or name


def _dress(axes: Axes, some_global: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    below = "layers with weights and poolings, in order of execution"
    dress(axes, below, "receptive field, pixels of the input", 11, 10, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    dot = partial(line_key, color=INK, marker="o", linestyle="", markersize=6)
    marks = [line_key("largest so far", color=INK, linewidth=2), dot("a layer")]
    if some_global:
        said = "sees the whole input by a global operation; drawn without it"
        marks.append(dot(said, markerfacecolor="white"))
    at = (-0.02, -0.135)
    axes.legend(handles=marks, loc="upper left", bbox_to_anchor=at, ncols=3, fontsize=10, frameon=False)
