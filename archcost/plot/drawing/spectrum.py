"""plot.spectrum: the bands of each layer's kernels along the depth, and the responses of some layers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from archcost.analysis.bands import BANDS
from archcost.analysis.filters import LayerSpectrum
from archcost.analysis.spectra import Spectrum
from archcost.errors import SpecError
from archcost.plot.drawing.canvas import (
    COLOURS,
    INK,
    SOFT,
    check_path,
    dress,
    finish,
    new_figure,
    patch_key,
    short,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["spectrum"]

_MOST = 6  # responses in the row below the bars
_COLOURS = (COLOURS[0], COLOURS[4], COLOURS[1])


def spectrum(
    found: Spectrum, *, layers: Sequence[str] | None = None, path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draw the shares of low, middle and high frequencies by layer, and below them the responses of layers.

    A response is the mean of |W(f)|^2 over the kernels of a layer, 0 in the middle and 1/2 cycle a pixel at
    the edges, the lighter the larger; that of a sequence is a curve.

    Args:
        found: as `archcost.spectrum` returns it.
        layers: the layers whose responses are drawn, at most 6; by default spread over the depth.
        path: as in `plot.growth`.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: no such layer, more than 6, or an unknown suffix.
    """
    check_path(path)
    if layers is not None and not 0 < len(layers) <= _MOST:
        raise SpecError(f"plot.spectrum: {len(layers)} layers; 1 to {_MOST} fit into the picture")
    shown = _spread(found) if layers is None else [found[name] for name in layers]
    shown = [row for row in shown if row.power.size]
    figure = new_figure(9.4, 5.6)
    figure.text(0.075, 0.95, f"Kernels as filters: {short(found.name, 60)}", fontsize=13, color=INK)
    _draw_bars(figure.add_axes((0.075, 0.53, 0.91, 0.32)), found.rows)
    marks = [
        patch_key(f"{band} frequencies", facecolor=colour)
        for band, colour in zip(BANDS, _COLOURS, strict=True)
    ]
    figure.legend(
        handles=marks, loc="upper right", bbox_to_anchor=(0.99, 0.92), ncols=3, fontsize=9.5, frameon=False
    )
    said = "Responses: frequency 0 in the middle, 1/2 cycle a pixel at the edges, light where it passes"
    if shown:
        figure.text(0.075, 0.395, said, fontsize=9.5, color=SOFT)
    wide = 0.91 / _MOST
    for at, row in enumerate(shown):
        axes = figure.add_axes((0.075 + at * wide, 0.09, wide * 0.8, 0.27))
        _draw_response(axes, row, labelled=at == 0)
    return finish(figure, path)


def _spread(found: Spectrum) -> list[LayerSpectrum]:
    """Up to as many layers as are drawn, from the first to the last."""
    places = np.linspace(0, len(found) - 1, min(_MOST, len(found))).round().astype(int)
    return [found[int(at)] for at in places]


def _draw_bars(axes: Axes, rows: Sequence[LayerSpectrum]) -> None:
    places, below = np.arange(1, len(rows) + 1), np.zeros(len(rows))
    for band, colour in zip(BANDS, _COLOURS, strict=True):
        shares = np.array([100 * getattr(row, band) for row in rows])
        axes.bar(places, shares, 0.9, bottom=below, color=colour, zorder=2)
        below += shares
    for level in (100 / 3, 200 / 3):  # the borders for a kernel of a single tap
        axes.axhline(level, color="white", linewidth=0.8, zorder=3)
    axes.set_xlim(0.3, max(len(rows), _MOST) + 0.7)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(0, 100)
    dress(axes, "layers in order of definition", "% of energy", 10, 9, "y")


def _draw_response(axes: Axes, row: LayerSpectrum, labelled: bool) -> None:
    if row.power.ndim == 1:
        axes.plot(np.linspace(-0.5, 0.5, len(row.power), endpoint=False), row.power, color=COLOURS[0])
        axes.set_ylim(0)
    else:
        axes.imshow(row.power, extent=(-0.5, 0.5, 0.5, -0.5), cmap="viridis", vmin=0)
        axes.set_yticks([-0.5, 0, 0.5] if labelled else [])
    axes.set_xticks([-0.5, 0, 0.5])
    axes.tick_params(labelsize=8, colors=INK)
    name = row.name or "kernel"
    axes.set_title(name if len(name) < 18 else f"…{name[-16:]}", fontsize=8.5, color=INK)
    axes.set_xlabel(f"{row.low:.0%} low, {row.high:.0%} high", fontsize=8.5, color=SOFT)
