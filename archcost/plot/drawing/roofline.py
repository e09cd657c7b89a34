"""plot.roofline: the convolutions of a measured model under the roofline of its machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

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
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from archcost.latency.layers import LayerTime
    from archcost.latency.measured import Measured
    from archcost.latency.prediction.roofline import Roofline

__all__ = ["roofline"]

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_NAMED = 3
"""Number of dots with the name of their layer."""


def roofline(measured: Measured, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw each measured convolution as a dot under the roofline of the machine that measured it.

    To the right are the multiply-accumulates for each byte that must be moved, upwards those done in a second
    by the fastest path, which the colour shows. The thick line is what memory allows; a thin one what a cache
    does, by its name, to layers whose input, weights and output fit into it. By Winograd, FFT and Strassen a
    layer has fewer multiplications than by its definition, so that its dot may stand above the roof.
    Source: Williams, Waterman and Patterson, "Roofline", 2009.

    Args:
        measured: the result of `archcost.measure`.
        path: the file to write, in the format of its suffix (.png, .svg, .pdf); it is overwritten.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: the roofline was not measured, no convolution was timed, or an unknown suffix.
    """
    check_path(path)
    roof = measured.roofline
    if roof is None:
        raise SpecError("plot.roofline: the machine's roofline was not measured; give measure more seconds")
    dots = [dot for layer in measured.layers if (dot := _dot(layer)) is not None]
    if not dots:
        raise SpecError(f"plot.roofline: no convolution of {measured.name} was timed")
    figure = new_figure(9.4, 5.6)
    axes = figure.add_axes((0.09, 0.12, 0.64, 0.76))
    _roof(axes, roof, dots)
    paths = list(dict.fromkeys(dot.path for dot in dots))
    longest = max(dot.ms for dot in dots)
    for i, name in enumerate(paths):
        of_path = [dot for dot in dots if dot.path == name]
        axes.scatter(
            [dot.x for dot in of_path],
            [dot.y for dot in of_path],
            s=[25 + 275 * dot.ms / longest for dot in of_path],
            color=colour_of(i),
            alpha=0.75,
            edgecolor="white",
            linewidth=0.8,
            zorder=3,
        )
    _name_slowest(axes, dots)
    dot_key = partial(line_key, marker="o", linestyle="")
    numbers = Counter(dot.path for dot in dots)
    marks = [
        dot_key(f"{name} ({numbers[name]})", color=colour_of(i), markersize=7) for i, name in enumerate(paths)
    ]
    marks.append(dot_key("area: its time", color=GREY, markersize=10))
    at = (1.02, 1)
    axes.legend(
        handles=marks, loc="upper left", bbox_to_anchor=at, fontsize=9.5, frameon=False, title="fastest path"
    )
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    title = f"Roofline: {short(measured.name, 36)}, {threads}"
    axes.set_title(title, loc="left", fontsize=13, color=INK, pad=10)
    return finish(figure, path)


class _Dot(NamedTuple):
    """A convolution: MACs a byte moved, GMAC/s and milliseconds of its fastest path."""

    x: float
    y: float
    ms: float
    path: str
    layer: str


def _dot(layer: LayerTime) -> _Dot | None:
    from archcost.latency.prediction.roofline import bytes_moved

    if layer.spec is None or not layer.best_ms or layer.best_path is None or layer.dtype is None:
        return None
    moved = bytes_moved(layer.spec, _BYTES.get(layer.dtype, 4))
    return _Dot(
        layer.spec.macs / moved,
        layer.spec.macs / layer.best_ms / 1e6,
        layer.best_ms,
        layer.best_path,
        layer.name,
    )


def _roof(axes: Axes, roof: Roofline, dots: Sequence[_Dot]) -> None:
    """The bandwidth's slope and the peak's level, with logarithmic axes around the dots."""
    from matplotlib.ticker import LogLocator, NullLocator

    peak, bandwidth = roof.macs_per_second / 1e9, roof.bytes_per_second / 1e9
    caches = {one.name: one.bytes_per_second / 1e9 for one in roof.caches}
    places = [*(dot.x for dot in dots), roof.ridge, *(peak / speed for speed in caches.values())]
    low, high = min(places) / 1.6, max(places) * 1.6
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(
        min(*(dot.y for dot in dots), low * bandwidth) / 1.6, 1.7 * max(peak, *(dot.y for dot in dots))
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_locator(NullLocator())
    axes.plot([low, roof.ridge, high], [low * bandwidth, peak, peak], color=INK, linewidth=1.8, zorder=2)
    note = partial(axes.annotate, textcoords="offset points", fontsize=9.5, color=SOFT)
    for name, speed in caches.items():
        axes.plot([low, peak / speed], [low * speed, peak], color=GREY, linewidth=0.9, zorder=2)
        note(f"{name}\n{speed:.0f} GB/s", (peak / speed, peak), xytext=(0, 5), ha="center")
    note(f"{peak:.0f} GMAC/s", (high, peak), xytext=(-6, 5), ha="right")
    note(f"{bandwidth:.0f} GB/s", (low, low * bandwidth), xytext=(8, -6), va="top")
    dress(axes, "multiply-accumulates for each byte moved", "GMAC/s", 11, 10)


def _name_slowest(axes: Axes, dots: Sequence[_Dot]) -> None:
    """Write the names of the slowest layers, one for layers at the same place."""
    named: list[_Dot] = []
    for dot in sorted(dots, key=lambda dot: -dot.ms):
        close = [one for one in named if abs(one.x / dot.x - 1) < 0.3 and abs(one.y / dot.y - 1) < 0.3]
        if close or len(named) == _NAMED:
            continue
        named.append(dot)
        text = f"{short(dot.layer or 'the model', 22)}, {dot.ms:.2f} ms"
        at = (dot.x, dot.y)
        axes.annotate(text, at, xytext=(8, -12), textcoords="offset points", fontsize=9, color=SOFT)
