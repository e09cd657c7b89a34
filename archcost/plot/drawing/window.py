"""plot.window: the receptive field of a position of a layer, drawn over the input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.errors import InputError, SpecError
from archcost.plot.drawing.canvas import (
    COLOURS,
    DASHED,
    GREY,
    INK,
    PALE,
    by,
    check_path,
    finish,
    line_key,
    new_figure,
    patch_key,
    short,
)

if TYPE_CHECKING:
    import torch
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike
    from PIL.Image import Image
    from torch import nn
    from typing_extensions import Unpack

    from archcost.fields.effective import EffectiveField
    from archcost.fields.field import ReceptiveField, Window
    from archcost.plot.drawing.styles import AreaStyle
    from archcost.trace.call import Inputs
    from archcost.trace.inputs import InputSize

__all__ = ["window"]

_BLUE, _RED, _BLACK = COLOURS[0], COLOURS[1], INK
_STRIP = 0.16  # how high a sequence is drawn, of its length


def window(
    model: nn.Module | str | Analysis,
    inputs: Inputs = None,
    layer: str | None = None,
    position: Sequence[int] | int | None = None,
    *,
    image: ArrayLike | torch.Tensor | Image | None = None,
    effective: EffectiveField | None = None,
    input_size: InputSize | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw the receptive field of a position of a layer over the input; the part outside is hatched.

    A sequence is drawn as a strip, a volume from the front and from above.

    Args:
        model: a module, a SPEC, or an Analysis.
        inputs: as in `archcost.receptive_field`.
        layer: as in `archcost.receptive_field`.
        position: as in `archcost.receptive_field`.
        image: the background: an array, tensor or PIL image of the input's spatial size, (H, W), (H, W, 3)
            or (3, H, W); by default a grid.
        effective: the result of `archcost.effective_field` for the layer and position, drawn as a heat map
            with its square.
        input_size: as in `archcost.analyze`.
        path: as in `plot.growth`.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        InputError: the image does not have the size of the input, or an Analysis gets inputs.
        SpecError: no such layer or position, ``effective`` belongs to another, or an unknown suffix.
    """
    analysis = analysis_of("plot.window", model, inputs, input_size=input_size)
    check_path(path)
    field = _field(analysis, layer, position, effective)
    picture = None if image is None else _as_picture(image, field.input_size)
    views = _views(len(field.input_size))
    boxes = [_bounds(field, effective, view) for view in views]
    wide = [box[0][1] - box[0][0] for box in boxes]
    tall = min(max(box[1][1] - box[1][0] for box in boxes) / sum(wide) * 7.2, 7.6)
    at = f", position {', '.join(map(str, field.position))}" if field.position else ""
    title = f"{short(analysis.name, 45)}, {field.layer or 'its output'}{at}\n{_said(field)}"
    head = 0.4 + 0.2 * (title.count("\n") + 1)
    high = tall + head + 0.95
    figure = new_figure(8.4, high)
    grid = figure.add_gridspec(
        1, len(views), width_ratios=wide, left=0.09, right=0.97, bottom=0.85 / high,
        top=1 - head / high, wspace=0.22,
    )  # fmt: skip
    for i, (view, box) in enumerate(zip(views, boxes, strict=True)):
        axes = figure.add_subplot(grid[0, i])
        _draw_view(axes, field, view, box, picture, effective)
    figure.suptitle(
        title, x=0.09, y=1 - 0.18 / high, ha="left", va="top", fontsize=11.5, color=INK,
    )  # fmt: skip
    _legend(figure, field, effective)
    return finish(figure, path)


def _field(
    analysis: Analysis,
    layer: str | None,
    position: Sequence[int] | int | None,
    effective: EffectiveField | None,
) -> ReceptiveField:
    if effective is None:
        return analysis.fields.select(layer, position)
    measured = effective.theoretical
    if layer is None and position is None:
        return measured
    field = analysis.fields.select(measured.layer if layer is None else layer, position)
    if any(getattr(field, name) != getattr(measured, name) for name in ("layer", "position", "input_size")):
        raise SpecError(
            f"plot.window: the effective field is that of {measured.layer or 'the model'} at "
            f"{measured.position}, not of {field.layer or 'the model'} at {field.position}; leave layer and "
            f"position out, or measure there"
        )
    return field


def _views(axes: int) -> list[tuple[int | None, int]]:
    """The axes of each panel: (downwards, to the right)."""
    views: dict[int, list[tuple[int | None, int]]] = {1: [(None, 0)], 2: [(0, 1)], 3: [(1, 2), (0, 2)]}
    return views[axes]


def _windows(field: ReceptiveField) -> ReceptiveField:
    """The receptive field to draw: without global operations, where it is not empty then."""
    return field.local if all(field.local.size) else field


def _edges(
    field: ReceptiveField, windows: tuple[Window, ...], axis: int | None, outset: float = 1
) -> tuple[float, float]:
    """The edges of the first and last pixel along an axis; for None, across a strip, its height."""
    if axis is None:
        half = _STRIP * field.input_size[0] / 2 * outset
        return -half, half
    return windows[axis][0] - 0.5, windows[axis][1] + 0.5


def _whole(field: ReceptiveField) -> tuple[Window, ...]:
    return tuple((0, n - 1) for n in field.input_size)


def _bounds(
    field: ReceptiveField, effective: EffectiveField | None, view: tuple[int | None, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The limits of a panel: (left, right), (top, bottom), with a margin."""
    shown = [_whole(field), _windows(field).unclipped]
    if effective is not None:
        shown.append(effective.window)
    limits = []
    for axis in (view[1], view[0]):
        ends = [_edges(field, windows, axis, 1.24) for windows in shown]
        low, high = min(e[0] for e in ends), max(e[1] for e in ends)
        margin = 0.02 * max(high - low, 1)
        limits.append((low - margin, high + margin))
    return limits[0], limits[1]


def _draw_view(
    axes: Axes,
    field: ReceptiveField,
    view: tuple[int | None, int],
    box: tuple[tuple[float, float], tuple[float, float]],
    picture: np.ndarray | None,
    effective: EffectiveField | None,
) -> None:
    from matplotlib.patheffects import withStroke

    axes.set_xlim(*box[0])
    axes.set_ylim(*reversed(box[1]))
    axes.set_aspect("equal")
    (top, bottom), (left, right) = (_edges(field, _whole(field), axis) for axis in view)
    extent = (left, right, bottom, top)
    _box(axes, (left, right, top, bottom), facecolor="#fafafa", edgecolor=GREY, linewidth=1.2, zorder=1)
    draw = partial(axes.imshow, extent=extent, aspect="equal", interpolation="nearest")
    if picture is not None:
        shown = picture if effective is None else _faded(picture)
        draw(shown, cmap="gray", vmin=0, vmax=1, zorder=1.5)
    else:
        _draw_grid(axes, left, right, top, bottom, strip=view[0] is None)
    if effective is not None:
        draw(_heat(effective.map, view), zorder=3)
    drawn = _windows(field).unclipped
    (w_top, w_bottom), (w_left, w_right) = (_edges(field, drawn, axis, 1.1) for axis in view)
    seen = (w_left, w_right, w_top, w_bottom)
    across = (w_top, w_bottom) if view[0] is None else (top, bottom)
    for part in _outside(seen, (left, right, *across)):
        _box(axes, part, "outside", edgecolor=_BLUE, linewidth=0, hatch="////", alpha=0.35)
    if effective is None:
        _box(axes, seen, facecolor=_BLUE, alpha=0.13)
    _box(axes, seen, "window", edgecolor=_BLUE, linewidth=2.4, zorder=4)
    if effective is not None:
        rows, columns = (_edges(field, effective.window, axis, 1.24) for axis in view)
        dashed = partial(_box, axes, linewidth=2.2, linestyle=DASHED, zorder=5)
        dashed((*columns, *rows), "effective", edgecolor=_RED)
    halo = [withStroke(linewidth=4.5, foreground="white")]
    centre = ((w_left + w_right) / 2, (w_top + w_bottom) / 2)
    axes.plot(*centre, "+", color=_BLACK, markersize=10, mew=1.8, zorder=6, path_effects=halo)
    _name_axes(axes, field, view)


def _box(axes: Axes, sides: tuple[float, ...], gid: str | None = None, **style: Unpack[AreaStyle]) -> None:
    """A rectangle of (left, right, top, bottom), rows going down."""
    from matplotlib.patches import Rectangle

    left, right, top, bottom = sides
    drawn: AreaStyle = {"facecolor": "none", "edgecolor": "none", "zorder": 2, **style}
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, gid=gid, **drawn))


def _outside(window: tuple[float, ...], image: tuple[float, ...]) -> list[tuple[float, ...]]:
    """The parts of the window beyond the image, as (left, right, top, bottom), none over another."""
    left, right, top, bottom = window
    xs = sorted({left, right, *(x for x in image[:2] if left < x < right)})
    ys = sorted({top, bottom, *(y for y in image[2:] if top < y < bottom)})
    parts: list[tuple[float, ...]] = []
    for y0, y1 in pairwise(ys):
        inside = image[2] <= y0 and y1 <= image[3]
        if not inside:
            parts.append((left, right, y0, y1))
            continue
        parts += [(x0, x1, y0, y1) for x0, x1 in pairwise(xs) if not (image[0] <= x0 and x1 <= image[1])]
    return parts


def _faded(picture: np.ndarray) -> np.ndarray:
    """The image light and grey, so that the heat map stands out."""
    grey = picture[..., :3].mean(-1) if picture.ndim == 3 else picture
    return np.asarray(0.55 + 0.45 * grey)


def _draw_grid(axes: Axes, left: float, right: float, top: float, bottom: float, strip: bool) -> None:
    """A line every 1, 2, 4, ... pixels, about 14 of them."""
    every = 2 ** int(np.ceil(np.log2(max((right - left) / 14, 1))))
    axes.vlines(np.arange(left + every, right, every), top, bottom, color=PALE, linewidth=0.8, zorder=1.6)
    if not strip:
        axes.hlines(np.arange(top + every, bottom, every), left, right, color=PALE, linewidth=0.8, zorder=1.6)


def _heat(values: np.ndarray, view: tuple[int | None, int]) -> np.ndarray:
    """The gradient as colours, its square root so that the faint parts show; opaque where it is large."""
    from matplotlib import colormaps

    beside = tuple(axis for axis in range(values.ndim) if axis not in view)
    flat = values.sum(beside) if beside else values
    level = np.sqrt(np.atleast_2d(flat) / flat.max())
    rgba = np.asarray(colormaps["inferno_r"](0.08 + 0.92 * level))
    rgba[..., 3] = np.minimum(1.0, 1.5 * level)
    return rgba


def _name_axes(axes: Axes, field: ReceptiveField, view: tuple[int | None, int]) -> None:
    names = {1: ["position"], 2: ["row", "column"], 3: ["depth", "row", "column"]}[len(field.size)]
    axes.set_xlabel(f"{names[view[1]]} of the input, pixels", fontsize=10, color=INK)
    if view[0] is None:
        axes.set_yticks([])
    else:
        axes.set_ylabel(f"{names[view[0]]} of the input, pixels", fontsize=10, color=INK)
    axes.tick_params(labelsize=9.5, colors=INK)
    axes.spines[:].set_visible(False)


def _said(field: ReceptiveField) -> str:
    """The sizes, for the title."""
    inside = tuple(hi - lo + 1 if lo <= hi else 0 for lo, hi in field.window)
    within = f"{by(inside)} of them in the input"
    if not field.is_global:
        here = tuple(hi - lo + 1 for lo, hi in field.unclipped)
        return f"sees {by(here)} pixels, {within if inside != here else 'all in the input'}"
    own = f"; its own window, as drawn: {by(field.local.size)}" if all(field.local.size) else ""
    because = short(str(field.reason).replace("`", ""), 80)
    return f"sees the whole input, {by(inside)} pixels{own}\nglobal because of {because}"


def _legend(figure: Figure, field: ReceptiveField, effective: EffectiveField | None) -> None:
    marks: list[Artist] = [patch_key("the window", facecolor="#d9e7f2", edgecolor=_BLUE, linewidth=2)]
    sides = zip(_windows(field).unclipped, field.input_size, strict=True)
    if any(low < 0 or high >= n for (low, high), n in sides):
        hatched: AreaStyle = {"facecolor": "white", "edgecolor": "#8fb8d6", "hatch": "////", "linewidth": 0}
        marks.append(patch_key("outside the input", **hatched))
    if effective is not None:
        label = f"side {effective.side}: {effective.share:.0%} of the gradient"
        marks.append(line_key(label, color=_RED, linewidth=2.2, linestyle=DASHED))
    cross = partial(line_key, marker="+", linestyle="", markersize=9, markeredgewidth=1.8)
    marks.append(cross("its centre", color=_BLACK))
    figure.legend(
        handles=marks, loc="lower left", bbox_to_anchor=(0.075, 0.0), ncols=len(marks), fontsize=10,
        frameon=False, columnspacing=1.6, handlelength=1.8,
    )  # fmt: skip


def _as_picture(image: ArrayLike | torch.Tensor | Image, size: tuple[int, ...]) -> np.ndarray:
    """The image as imshow takes it: (H, W) or (H, W, 3) in [0, 1]; a sequence has a single row."""
    if hasattr(image, "detach"):
        image = image.detach().cpu()
    given = np.asarray(image)
    values = given[0] if given.ndim == 4 and len(given) == 1 else given
    if len(size) == 3:
        raise InputError(
            "plot.window: an image goes with inputs of one or two spatial axes, not with a volume"
        )
    if len(size) == 1:
        values = np.atleast_2d(values.reshape(-1, values.shape[-1])[0]) if values.size else values
        fits = values.shape == (1, *size)
    else:
        if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[1:] == size:
            values = np.moveaxis(values, 0, -1)
        if values.ndim == 3 and values.shape[-1] == 1:
            values = values[..., 0]
        fits = values.shape[:2] == size and values.ndim in (2, 3) and values.shape[2:] in ((), (3,), (4,))
    if not fits:
        wanted = "x".join(map(str, size))
        raise InputError(
            f"plot.window: the image has shape {given.shape}, and the input {wanted} pixels; "
            f"give an image of that size, (H, W), (H, W, 3) or (3, H, W)"
        )
    if values.dtype == np.uint8:
        return np.asarray(values / 255)
    low, high = float(values.min()), float(values.max())
    values = np.asarray(values, dtype=np.float64)
    return values if low >= 0 and high <= 1 else (values - low) / max(high - low, 1e-12)
