"""plot_growth, plot_window and plot_stack: receptive fields as pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from archcost.analysis import Analysis
    from archcost.fields.effective import EffectiveField
    from archcost.report.pictures.stack import Layer

__all__ = ["plot_growth", "plot_stack", "plot_window"]


def plot_growth(
    *models: nn.Module | str | Analysis,
    input_size: Any = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """The receptive field over depth: a line for each model, a dot for each layer.

    Layers are the operations with weights and the poolings whose output is a spatial map, in order of
    execution. Heights are pixels of the input, the largest over the axes. A hollow dot is a layer whose
    exact field is the whole input; it stands at `ReceptiveField.local`.

    Args:
        models: modules, SPECs, or the Analyses of them.
        input_size: of those that are no Analysis, as in `archcost.analyze`.
        path: written to, in the format that its suffix names (.png, .svg, .pdf); overwritten if it exists.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: no model, one without a spatial map, or an unknown suffix.
    """
    from archcost.report.pictures.growth import plot_growth as draw

    return draw(*(_analysis(model, None, input_size) for model in models), path=path)


def plot_window(
    model: nn.Module | str | Analysis,
    inputs: Any = None,
    layer: str | None = None,
    position: Sequence[int] | int | None = None,
    *,
    image: Any = None,
    effective: EffectiveField | None = None,
    input_size: Any = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """The window of one layer and position over the input, what lies outside of the input hatched.

    A sequence is drawn as a strip, a volume from the front and from above.

    Args:
        model, inputs, layer, position, input_size: as in `archcost.receptive_field`.
        image: drawn beneath: an array, tensor or PIL image of the input's spatial size, (H, W), (H, W, 3)
            or (3, H, W); by default a grid.
        effective: what `archcost.effective_field` gave for this layer and position, drawn as a heat map
            with its square.
        path: as in `plot_growth`.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        InputError: the image does not have the size of the input.
        SpecError: no such layer or position, ``effective`` belongs to another, or an unknown suffix.
    """
    from archcost.report.pictures.window import plot_window as draw

    analysis = _analysis(model, inputs, input_size)
    return draw(analysis, layer, position, image=image, effective=effective, path=path)


def plot_stack(layers: Sequence[Layer], *, path: str | os.PathLike[str] | None = None) -> Figure:
    """How the windows of stacked layers add up: two 3x3 cover 5x5, three cover 7x7, step by step.

    Above, each plane from the input to one position of the output, with the cells that it depends on
    numbered and one window of each layer marked. Below, the same from the side.

    Args:
        layers: from the input on; each a kernel size, a tuple (kernel, stride) or
            (kernel, stride, dilation) of ints or pairs of them (rows, columns), or a `ConvSpec` of one or
            two axes. Padding moves the window and does not change it, so it is left out.
        path: as in `plot_growth`.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: no layers, one that is none of these, or more cells than a picture can show.
    """
    from archcost.report.pictures.stack import plot_stack as draw

    return draw(layers, path=path)


def _analysis(model: nn.Module | str | Analysis, inputs: Any, input_size: Any) -> Analysis:
    from archcost.analysis import Analysis, analyze

    if isinstance(model, Analysis):
        return model
    return analyze(model, inputs, input_size=input_size, progress=False)
