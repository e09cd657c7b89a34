"""plot.zoo: measured models by latency and accuracy, with the Pareto front."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import exp, log
from typing import TYPE_CHECKING, Protocol

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
from archcost.report.units import si_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["zoo"]

_LINE = 0.04  # the height of a name, as a share of the axis
_LEFT, _RIGHT = 0.24, 0.07  # shares of the axis for names before the first dot, and behind the last
_FEW = 12  # models of which all have their names


class _Model(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def macs(self) -> int: ...
    @property
    def ms(self) -> float: ...
    @property
    def front(self) -> bool: ...


class _Zoo(Protocol):
    @property
    def device(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def models(self) -> Sequence[_Model]: ...


def zoo(measured: _Zoo, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw measured models: latency to the right, accuracy upwards, the area of a dot its MACs.

    The line is the Pareto front: no other model is faster than one on it and at least as accurate.

    Args:
        measured: an `archcost.fleet.MeasuredZoo`, from `archcost.fleet.measured_zoo`.
        path: the file to write, in the format of its suffix (.png, .svg, .pdf); it is overwritten.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: there is no model, or an unknown suffix.
    """
    check_path(path)
    if not measured.models:
        raise SpecError("plot.zoo: no model was measured")
    figure = new_figure(9.4, 5.6)
    axes = figure.add_axes((0.09, 0.12, 0.87, 0.76))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    axes.margins(y=0.08)
    most = max(one.macs for one in measured.models)
    for on, colour in ((False, GREY), (True, colour_of(0))):
        some = [one for one in measured.models if one.front == on]
        axes.scatter(
            [one.ms for one in some],
            [one.accuracy for one in some],
            s=[25 + 375 * one.macs / most for one in some],
            color=colour,
            alpha=0.75,
            edgecolor="white",
            linewidth=0.8,
            zorder=3,
        )
    front = sorted((one for one in measured.models if one.front), key=lambda one: one.ms)
    xs, ys = [one.ms for one in front], [one.accuracy for one in front]
    axes.plot(xs, ys, color=INK, linewidth=1.4, zorder=2, drawstyle="steps-post")
    # Above the front there is nothing: names stand there, pushed upwards where they would touch.
    low, high = axes.get_ylim()
    step, last = (high - low) * _LINE, low
    left, right = axes.set_xlim(*_limits([one.ms for one in measured.models]))
    others = [one for one in measured.models if not one.front]
    for one in others if len(measured.models) <= _FEW else ():
        axes.annotate(
            short(one.name, 24), (one.ms, one.accuracy), xytext=(0, -16), textcoords="offset points",
            ha="center", va="center", fontsize=9, color=SOFT,
        )  # fmt: skip
    for one in front:
        last = max(one.accuracy + step / 2, last + step)
        beside = one.ms * (left / right) ** 0.02, last
        axes.annotate(
            short(one.name, 24), (one.ms, one.accuracy), xytext=beside, ha="right", va="center",
            fontsize=9, color=SOFT, arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.5},
        )  # fmt: skip
    axes.set_ylim(low, max(high, last + step))
    title = f"{len(measured.models)} classifiers on {short(measured.device, 30)}, batch {measured.batch}"
    largest = f"area: MACs, the largest {si_text(most)}"
    axes.set_title(f"{title} ({largest})", loc="left", fontsize=13, color=INK, pad=10)
    dress(axes, "median ms of a forward pass", "top-1 accuracy on ImageNet in %", 11, 10)
    return finish(figure, path)


def _limits(ms: Sequence[float]) -> tuple[float, float]:
    """The ends of a logarithmic axis with room on both sides."""
    low, high = min(ms), max(ms)
    whole = max(log(high / low), log(1.5)) / (1 - _LEFT - _RIGHT)
    return low * exp(-_LEFT * whole), high * exp(_RIGHT * whole)
