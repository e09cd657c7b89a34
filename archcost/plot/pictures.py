"""Pictures: receptive fields (plot_growth, plot_window, plot_stack) and the ways to execute a convolution."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from archcost.analysis import Analysis
    from archcost.fields.effective import EffectiveField
    from archcost.paths.path import ExecutionPath
    from archcost.report.pictures.stack import Layer
    from archcost.spec import ConvSpec

__all__ = [
    *("plot_growth", "plot_im2col", "plot_stack", "plot_strassen", "plot_tiles", "plot_window"),
    "plot_winograd",
]


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
    from archcost.analysis import Analysis, analysis_of
    from archcost.report.pictures.growth import plot_growth as draw

    made = all(isinstance(model, Analysis) for model in models)
    sizes = [None if isinstance(model, Analysis) and not made else input_size for model in models]
    each = zip(models, sizes, strict=True)
    return draw(*(analysis_of("plot_growth", model, input_size=size) for model, size in each), path=path)


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
        InputError: the image does not have the size of the input, or an Analysis gets inputs.
        SpecError: no such layer or position, ``effective`` belongs to another, or an unknown suffix.
    """
    from archcost.analysis import analysis_of
    from archcost.report.pictures.window import plot_window as draw

    analysis = analysis_of("plot_window", model, inputs, input_size=input_size)
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


def plot_im2col(spec: ConvSpec, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """The im2col matrix of a small convolution: which pixel stands where, and how often.

    The pixels are numbered from 1, and coloured; padding is 0 and white. The first window and the column
    that it becomes are framed, and one pixel wherever it stands.

    Args:
        spec: of one or two axes, small: up to 64 rows and 64 columns of the matrix. One image of a batch
            is drawn.
        path: as in `plot_growth`.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: three axes, a transposed convolution, a matrix too large, or an unknown suffix.
    """
    from archcost.report.pictures.im2col import plot_im2col as draw

    return draw(spec, path=path)


def plot_tiles(
    spec: ConvSpec, algorithm: str | ExecutionPath, *, path: str | os.PathLike[str] | None = None
) -> Figure:
    """The overlapping tiles of a Fourier or Winograd path, and what becomes of each number computed.

    From left to right: the input with its first two tiles, what one tile gives, the outputs side by side.
    A sequence is drawn as a strip with a row for each tile. Colours tell outputs from what wraps around,
    what a stride skips, and what lies beyond the ragged edge of the map.

    Args:
        spec: of one or two axes. Where stride or dilation part it into several plain convolutions, the
            largest of them is drawn, and the picture says so.
        algorithm: an execution path with tiles, by name or as an `ExecutionPath`: "fft", "fft-16",
            "winograd-4" and their like.
        path: as in `plot_growth`.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: a path without tiles or that refuses the convolution, three axes, a transposed
            convolution, more pixels than a picture can show, or an unknown suffix.
    """
    from archcost.report.pictures.tiles import plot_tiles as draw

    return draw(spec, algorithm, path=path)


def plot_winograd(m: int, r: int, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Winograd's F(m, r): from m + r - 1 pixels by as many products to m outputs, and the exact matrices.

    Args:
        m: outputs at a time.
        r: taps of the kernel; at most 12 pixels m + r - 1.
        path: as in `plot_growth`.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        InputError: m or r is below 1, or there are too few points.
        SpecError: an unknown suffix.
    """
    from archcost.report.pictures.winograd import plot_winograd as draw

    return draw(m, r, path=path)


def plot_strassen(
    measured: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Strassen's seven products, how they add up, and n^2.807 against n^3 over sizes.

    Each product is a pattern of plus and minus on the sixteen products of a quarter of A by a quarter of B;
    it is the form with 15 additions that `archcost.paths.strassen_matmul` computes.

    Args:
        measured: what ``benchmarks/strassen.py --json`` writes, as a dict or as the name of the file: times
            are drawn beside the count, with the size from which on they are shorter.
        path: as in `plot_growth`.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        InputError: ``measured`` is not of this form.
        SpecError: an unknown suffix.
    """
    from archcost.report.pictures.strassen import plot_strassen as draw

    return draw(measured, path=path)
