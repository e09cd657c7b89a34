"""plot.memory: activation memory over a forward pass, with the tensors alive at the peak."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.analysis.profile import Alive, MemoryProfile, memory_profile
from archcost.errors import SpecError
from archcost.plot.drawing.canvas import (
    GREY,
    INK,
    PALE,
    SOFT,
    check_path,
    colour_of,
    dress,
    finish,
    new_figure,
    short,
)
from archcost.report.units import bytes_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import nn

    from archcost.trace.inputs import InputSize

__all__ = ["memory"]

_NAMED = 6
"""Most tensors alive at the peak that have a colour and a name."""


def memory(
    model: nn.Module | str | Analysis,
    *,
    input_size: InputSize | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw the bytes of activations alive during each operation of the inference pass.

    The peak is marked. The largest tensors alive at it are coloured areas over the operations during which
    they live, and are listed with the operations that made them.

    Args:
        model: a module, a SPEC, or an Analysis.
        input_size: as in `archcost.analyze`, for a model that is not an Analysis.
        path: the file to write, in the format of its suffix (.png, .svg, .pdf); it is overwritten.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: a pass without operations, or an unknown suffix.
    """
    check_path(path)
    analysis = analysis_of("plot.memory", model, input_size=input_size)
    profile = memory_profile(analysis)
    if profile is None or not profile.live[profile.peak]:
        raise SpecError(f"plot.memory: the forward pass of {analysis.name} makes no tensors")
    figure = new_figure(9.4, 5.0)
    axes = figure.add_axes((0.105, 0.13, 0.505, 0.76))
    top = profile.live[profile.peak]
    axes.set_xlim(-0.5, len(profile.live) - 0.5)
    axes.set_ylim(0, 1.12 * top)
    _areas(axes, profile)
    axes.plot([profile.peak], [top], marker="v", color=INK, markersize=7, zorder=6, clip_on=False)
    left = profile.peak > 0.5 * len(profile.live)
    axes.annotate(
        f"peak {bytes_text(top)}",
        (profile.peak, top),
        xytext=(-9 if left else 9, 6),
        textcoords="offset points",
        ha="right" if left else "left",
        fontsize=10.5,
        color=INK,
    )
    axes.yaxis.set_major_formatter(lambda value, _: bytes_text(round(value)))
    dress(axes, "operations, in order of execution", "activations alive", 11, 10, "y")
    name = short(analysis.name, 40)
    axes.set_title(
        f"Activation memory: {name}, input {analysis.input_text}", loc="left", fontsize=12.5, color=INK
    )
    _list(figure.add_axes((0.635, 0.13, 0.355, 0.76)), profile)
    return finish(figure, path)


def _areas(axes: Axes, profile: MemoryProfile) -> None:
    """All memory as a grey step area, and above the axis the largest tensors of the peak, stacked."""
    x = range(len(profile.live))
    axes.fill_between(x, profile.live, step="mid", color=PALE, zorder=1)
    axes.step(x, profile.live, where="mid", color=GREY, linewidth=1.1, zorder=4)
    base = [0.0] * len(profile.live)
    named = list(enumerate(profile.alive[:_NAMED]))
    for i, one in sorted(named, key=lambda pair: pair[1].first - pair[1].last):  # the longest-lived below
        inside = [one.first <= at <= one.last for at in x]
        above = [low + one.nbytes * on for low, on in zip(base, inside, strict=True)]
        axes.fill_between(x, base, above, where=inside, step="mid", color=colour_of(i), alpha=0.85, zorder=3)
        base = above


def _list(axes: Axes, profile: MemoryProfile) -> None:
    """The tensors alive at the peak, the largest first."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    where = short(profile.module or "the model's own forward", 34)
    axes.text(0, 0.99, "Alive at the peak", fontsize=11.5, color=INK, va="top")
    axes.text(0, 0.93, f"in {where}", fontsize=9.5, color=SOFT, va="top")
    for i, one in enumerate(profile.alive[:_NAMED]):
        y = 0.83 - 0.115 * i
        axes.plot([0.02], [y], marker="s", color=colour_of(i), markersize=9, alpha=0.85)
        axes.text(0.07, y + 0.022, f"{bytes_text(one.nbytes)}", fontsize=10, color=INK, va="center")
        axes.text(0.07, y - 0.028, short(_made_by(one), 44), fontsize=9, color=SOFT, va="center")
    rest = profile.alive[_NAMED:]
    if rest:
        text = f"{len(rest)} more: {bytes_text(sum(one.nbytes for one in rest))}"
        axes.text(0.07, 0.83 - 0.115 * _NAMED, text, fontsize=9.5, color=SOFT, va="center")


def _made_by(one: Alive) -> str:
    return f"{one.module or 'the model'} ({one.operation})"
