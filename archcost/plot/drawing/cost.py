"""plot.cost: MACs, parameters and activations of the layers, in order of execution."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.analysis.profile import LayerCost, layer_costs
from archcost.errors import SpecError
from archcost.plot.drawing.canvas import (
    INK,
    SOFT,
    check_path,
    colour_of,
    dress,
    finish,
    new_figure,
    patch_key,
    short,
)
from archcost.report.units import bytes_text, percent_text, si_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import nn

    from archcost.trace.inputs import InputSize

__all__ = ["cost"]

_KINDS = ("convolution", "matmul", "attention", "recurrent")
_NAMED = 3
"""Number of bars with their layer's name, in each panel."""


def cost(
    model: nn.Module | str | Analysis,
    *,
    input_size: InputSize | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw what each layer costs along the depth of a model: MACs, parameters, bytes of activations.

    Layers are the operations with weights and the matrix products, in order of execution; the colour is the
    kind of the operation. The three largest of each panel are named, with their share.

    Args:
        model: a module, a SPEC, or an Analysis.
        input_size: as in `archcost.analyze`, for a model that is not an Analysis.
        path: the file to write, in the format of its suffix (.png, .svg, .pdf); it is overwritten.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: a model without such layers, or an unknown suffix.
    """
    check_path(path)
    analysis = analysis_of("plot.cost", model, input_size=input_size)
    layers = layer_costs(analysis)
    if not layers:
        raise SpecError(f"plot.cost: {analysis.name} has no layer with weights and no matrix product")
    figure = new_figure(9.4, 7.2)
    panels: list[tuple[str, Callable[[LayerCost], int], Callable[[int], str]]] = [
        ("MACs", lambda layer: layer.macs or 0, si_text),
        ("parameters", lambda layer: layer.params, si_text),
        ("activations", lambda layer: layer.activation_bytes, bytes_text),
    ]
    for i, (label, value, show) in enumerate(panels):
        axes = figure.add_axes((0.1, 0.685 - 0.292 * i, 0.87, 0.225))
        _panel(axes, layers, [value(layer) for layer in layers], show)
        below = "layers with weights and matrix products, in order of execution" if i == 2 else ""
        dress(axes, below, label, 11, 9.5, "y")
    name = short(analysis.name, 40)
    figure.text(0.1, 0.96, f"Cost along depth: {name}, input {analysis.input_text}", fontsize=13, color=INK)
    kinds = [kind for kind in _KINDS if any(layer.kind == kind for layer in layers)]
    marks = [patch_key(kind, facecolor=colour_of(_KINDS.index(kind))) for kind in kinds]
    figure.legend(
        handles=marks, loc="upper right", bbox_to_anchor=(0.98, 0.955), ncols=4, fontsize=9.5, frameon=False
    )
    return finish(figure, path)


def _panel(axes: Axes, layers: list[LayerCost], values: list[int], show: Callable[[int], str]) -> None:
    colours = [colour_of(_KINDS.index(layer.kind)) for layer in layers]
    axes.bar(range(1, len(values) + 1), values, width=0.9, color=colours, zorder=2)
    axes.set_xlim(0.3, len(values) + 0.7)
    top, total = max(values), sum(values)
    axes.set_ylim(0, 1.32 * top or 1)
    axes.yaxis.set_major_formatter(lambda value, _: show(round(value)))
    taken: list[int] = []
    room = 0.36 * len(values)
    for i in sorted(range(len(values)), key=lambda i: -values[i]):
        around = values[max(0, round(i - room / 3)) : round(i + room / 3) + 1]
        if len(taken) == _NAMED or not values[i]:
            break
        if values[i] < max(around) or any(abs(i - other) < room for other in taken):
            continue  # its name would stand over a bar or another name
        taken.append(i)
        share = f"{show(values[i])}, {percent_text(100 * values[i] / total)} %"
        axes.annotate(
            f"{_end(layers[i].module) or 'the model'}\n{share}",
            (i + 1, values[i]),
            xytext=(0, 4),
            textcoords="offset points",
            ha="left" if i < 0.1 * len(values) else "right" if i > 0.9 * len(values) else "center",
            fontsize=8.5,
            color=SOFT,
        )


def _end(name: str, most: int = 22) -> str:
    """The end of a module's name, which tells layers apart."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
