"""plot.stack: how the windows of stacked layers add up, plane by plane and from the side."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from archcost.errors import SpecError
from archcost.plot.drawing.canvas import MARGIN, SOFT, by, check_path, colour_of, finish, once, sheet
from archcost.plot.drawing.cells import READ, arrow, box, frame, lighter, say
from archcost.plot.drawing.styles import Point
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["StackLayer", "covered", "stack"]

Size = int | tuple[int, ...]
StackLayer = int | tuple[Size, ...] | ConvSpec

_MOST = 48  # cells a side
_WIDEST, _GAP = 15.0, 0.98  # inches, as all that follows
_CELL, _SIDE_CELL, _RISE, _LABELS = 0.34, 0.36, 0.86, 1.25
_EMPTY = "#ffffff"


class _LayerWindow(NamedTuple):
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def covered(layers: Sequence[StackLayer]) -> list[tuple[np.ndarray, ...]]:
    """The cells of each plane, from the input to the output, that position 0 of the output depends on.

    Returns:
        For each plane an array of positions along each axis; the cells are their product.
    """
    steps = _steps(layers)
    planes = [tuple(np.zeros(1, dtype=np.int64) for _ in steps[0].kernel)]
    for step in reversed(steps):
        below = tuple(
            np.unique(at[:, None] * s + d * np.arange(k))
            for at, k, s, d in zip(planes[0], *step, strict=True)
        )
        planes.insert(0, below)
    return planes


def stack(layers: Sequence[StackLayer], *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw how the windows of stacked layers add up: two of 3x3 cover 5x5, three cover 7x7.

    Above are the planes from the input to a position of the output, with the cells numbered on which it
    depends and the first window of each layer framed. Below is the stack from the side.

    Args:
        layers: the layers from the input on; each is a kernel size, a tuple (kernel, stride) or
            (kernel, stride, dilation) of ints or pairs (rows, columns), or a `ConvSpec` with one or two
            axes. Padding is ignored, since it moves the window and does not change its size.
        path: as in `plot.growth`.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: no layers, one that is none of these, or more cells than a picture can show.
    """
    check_path(path)
    steps, planes = _steps(layers), covered(layers)
    spans = [tuple(int(at[-1]) + 1 for at in plane) for plane in planes]
    if max(spans[0]) > _MOST:
        raise SpecError(
            f"plot.stack: the window is {'x'.join(map(str, spans[0]))} cells, and a picture shows up to "
            f"{_MOST} a side; take fewer layers, or plot.growth"
        )
    flat = len(spans[0]) == 2
    sides = _sides(steps)
    room = _WIDEST - 2 * MARGIN - len(steps) * _GAP
    cell = min(_CELL, room / sum(span[-1] for span in spans)) if flat else 0.0
    width = 2 * MARGIN + len(steps) * _GAP + cell * sum(span[-1] for span in spans)
    narrow = 2 * (MARGIN + _LABELS) + 0.3 * max(spans[0])
    width = min(max(width, narrow, 6.4), _WIDEST)
    planes_high = cell * max(span[0] for span in spans) + 0.95 if flat else 0.0
    side_high = len(steps) * _RISE + 0.95
    height = 0.95 + planes_high + side_high * len(sides)
    figure, axes = sheet(width, height, *_title(steps, spans[0], planes))
    if flat:
        _draw_planes(axes, steps, planes, spans, cell, width, height - 0.95)
    for i, axis in enumerate(sides):
        below = height - 0.95 - planes_high - side_high * i
        _draw_side(axes, steps, [plane[axis] for plane in planes], axis, len(sides) > 1, width, below)
    return finish(figure, path)


def _steps(layers: Sequence[StackLayer]) -> list[_LayerWindow]:
    """Kernel, stride and dilation of each layer, one value an axis."""
    if isinstance(layers, (int, ConvSpec)) or not len(layers):
        raise SpecError("plot.stack: give a list of layers, from the input on, as in [3, 3, 3]")
    given = [_read(layer) for layer in layers]
    lengths = {len(value) for values in given for value in values if isinstance(value, tuple)}
    axes = lengths.pop() if lengths else 2
    if lengths or axes not in (1, 2):
        raise SpecError("plot.stack: all layers need the same axes, one or two of them")
    steps = [
        _LayerWindow(*(value if isinstance(value, tuple) else (value,) * axes for value in values))
        for values in given
    ]
    for step, layer in zip(steps, layers, strict=True):
        if not all(isinstance(n, int) and n >= 1 for value in step for n in value):
            raise SpecError(f"plot.stack: {layer!r} is no layer: sizes are whole numbers, at least 1")
    return steps


def _read(layer: StackLayer) -> tuple[Size, Size, Size]:
    if isinstance(layer, ConvSpec):
        if layer.transposed:
            raise SpecError("plot.stack: transposed convolutions are not drawn")
        return layer.kernel_size, layer.stride, layer.dilation
    values = layer if isinstance(layer, tuple) else (layer,)
    if not 1 <= len(values) <= 3 or not all(isinstance(value, (int, tuple)) for value in values):
        raise SpecError(
            f"plot.stack: {layer!r} is no layer; give a kernel size, (kernel, stride), "
            f"(kernel, stride, dilation), or a ConvSpec"
        )
    kernel, stride, dilation = (*values, 1, 1)[:3]
    return kernel, stride, dilation


def _sides(steps: list[_LayerWindow]) -> list[int]:
    """The axes to draw from the side: only the last where all are alike."""
    axes = len(steps[0].kernel)
    alike = all(len(set(value)) == 1 for step in steps for value in step)
    return [axes - 1] if alike else list(range(axes))


def _title(
    steps: list[_LayerWindow], span: tuple[int, ...], planes: list[tuple[np.ndarray, ...]]
) -> tuple[str, str]:
    plural = "s" * (len(steps) > 1)
    kernels = {step.kernel for step in steps}
    kernel = f" of {by(next(iter(kernels)))}" if len(kernels) == 1 else ""
    see = "see" if plural else "sees"
    title = f"{len(steps)} layer{plural}{kernel} {see} {by(span)} cells of the input"
    read = prod(len(at) for at in planes[0])
    if read < prod(span):
        return title, f"{read} of the {prod(span)} cells are read; the empty ones are skipped"
    jump = tuple(prod(step.stride[axis] for step in steps) for axis in range(len(span)))
    if max(jump) > 1:
        return title, f"the next output position sees them {by(tuple(dict.fromkeys(jump)))} cells further"
    if len(steps) == 1:
        return title, f"{prod(span)} weights for each pair of channels"
    own = sum(prod(step.kernel) for step in steps)
    return title, f"{own} weights for each pair of channels; one layer of {by(span)} has {prod(span)}"


def _draw_planes(
    axes: Axes,
    steps: list[_LayerWindow],
    planes: list[tuple[np.ndarray, ...]],
    spans: list[tuple[int, ...]],
    cell: float,
    width: float,
    top: float,
) -> None:
    """Draw the planes from left to right."""
    used = len(steps) * _GAP + cell * sum(span[-1] for span in spans)
    left = (width - used) / 2
    high = cell * max(span[0] for span in spans)
    middle, low = top - high / 2 - 0.08, top - high - 0.2
    for k, (plane, span) in enumerate(zip(planes, spans, strict=True)):
        upper = middle + cell * span[0] / 2
        places: dict[tuple[int, ...], Point] = {
            (r, c): (left + c * cell, upper - r * cell) for r, c in np.ndindex(*span)
        }
        first = _first(steps, k)
        _draw_cells(axes, steps, k, places, list(product(*plane)), set(product(*first)), cell)
        right = left + cell * span[1]
        count = prod(len(at) for at in plane)
        size = by(span) if count == prod(span) else f"{by(span)}, {count} read"
        where = f"{_name(k, len(steps))}\n{size}"
        say(axes, (left + right) / 2, low, where, va="top", linespacing=1.35)
        if k < len(steps):
            colour, between = colour_of(k), right + _GAP / 2
            tall, wide = ((cells[-1] + 1) * cell for cells in first)
            frame(axes, left, upper, wide, tall, colour, f"window {k}", 2.4)
            arrow(axes, (right + 0.1, middle), (right + _GAP - 0.1, middle), colour, 1.8)
            say(axes, between, middle + 0.1, f"layer {k + 1}", 9.5, va="bottom", color=colour)
            say(axes, between, middle - 0.1, _kind(steps[k], "\n"), 9.5, va="top", color=colour)
        left = right + _GAP


def _first(steps: list[_LayerWindow], k: int) -> list[list[int]]:
    """The cells of a plane in the first window of the next layer, along each axis; for the output cell 0."""
    if k == len(steps):
        return [[0]] * len(steps[0].kernel)
    return [[d * t for t in range(n)] for n, d in zip(steps[k].kernel, steps[k].dilation, strict=True)]


def _draw_cells(
    axes: Axes,
    steps: list[_LayerWindow],
    k: int,
    places: Mapping[tuple[int, ...], Point],
    read: Sequence[tuple[int, ...]],
    first: Collection[tuple[int, ...]],
    cell: float,
    where: str = "",
) -> None:
    """Draw a plane: cells that are read, numbered where there is room, the first window of the next layer
    tinted, and a frame around the output of the previous layer's first window."""
    numbers = {at: i + 1 for i, at in enumerate(read)}
    size = min(11.0, cell * 72 * 0.42, cell * 72 * 1.25 / len(str(len(read))))
    tint = lighter(colour_of(min(k, len(steps) - 1)), 0.72)
    for at, corner in places.items():
        number = numbers.get(at)
        gid = f"{where}{'read' if number else 'skipped'} {k}"
        fill = tint if at in first else READ if number else _EMPTY
        box(axes, *corner, cell, cell, gid, str(number or ""), size, facecolor=fill)
    if k:
        left, upper = next(iter(places.values()))
        inset = min(0.035, cell * 0.12)
        side = cell - 2 * inset
        frame(axes, left + inset, upper - inset, side, side, colour_of(k - 1), f"{where}cell {k}", 2.0)


def _kind(step: _LayerWindow, between: str) -> str:
    parts = [by(step.kernel)]
    parts += [f"stride {once(step.stride)}"] * (max(step.stride) > 1)
    parts += [f"dilation {once(step.dilation)}"] * (max(step.dilation) > 1)
    return between.join(parts)


def _name(plane: int, layers: int) -> str:
    return "input" if not plane else "output" if plane == layers else f"after layer {plane}"


def _draw_side(
    axes: Axes,
    steps: list[_LayerWindow],
    rows: list[np.ndarray],
    axis: int,
    named: bool,
    width: float,
    top: float,
) -> None:
    """Draw the stack from the side, the output above; each cell is over the middle of its window."""
    span = int(rows[0][-1]) + 1
    cell = min(_SIDE_CELL, (width - 2 * (MARGIN + _LABELS)) / span)
    left = (width - cell * span) / 2
    title = "from the side" + f", along the {('rows', 'columns')[axis]}" * named
    say(axes, MARGIN, top - 0.12, title, ha="left", color=SOFT)
    jump, start = 1, 0.0
    xs = left + cell * (np.arange(span) + 0.5)
    for k, row in enumerate(rows):
        y = top - 0.55 - (len(steps) - k) * _RISE
        say(axes, MARGIN, y, _name(k, len(steps)), ha="left")
        count, long = len(row), int(row[-1]) + 1
        said = f"{long} cell{'s' * (long > 1)}" if count == long else f"{count} of {long} cells"
        say(axes, width - MARGIN, y, said, ha="right")
        below = xs
        if k:
            one = _LayerWindow(*((value[axis],) for value in steps[k - 1]))
            (kernel,), (stride,), (dilation,) = one
            start += jump * dilation * (kernel - 1) / 2
            jump *= stride
            xs = left + cell * (start + jump * np.arange(long) + 0.5)
            for p in row:
                feet = below[p * stride + dilation * np.arange(kernel)]
                _draw_cone(axes, k, p == 0, (xs[p], y - cell / 2), feet, y - _RISE + cell / 2)
            said = f"layer {k}: {_kind(one, ', ')}"
            say(axes, MARGIN, y - _RISE / 2, said, 9, ha="left", color=colour_of(k - 1))
        places: dict[tuple[int, ...], Point] = {(p,): (x - cell / 2, y + cell / 2) for p, x in enumerate(xs)}
        first = {(p,) for p in _first(steps, k)[axis]}
        _draw_cells(axes, steps, k, places, [(int(p),) for p in row], first, cell, "side ")


def _draw_cone(axes: Axes, k: int, first: bool, tip: Point, feet: np.ndarray, floor: float) -> None:
    """Draw lines from a cell to the cells that it reads; the first window is filled."""
    colour = colour_of(k - 1)
    width, alpha = (1.7, 1.0) if first else (0.8, 0.45)
    if first:
        ends = [tip[0], feet[0], feet[-1]]
        axes.fill(ends, [tip[1], floor, floor], color=colour, alpha=0.16, linewidth=0, zorder=1)
    for foot in feet:
        line = [tip[0], foot], [tip[1], floor]
        axes.plot(*line, color=colour, zorder=1.5, linewidth=width, alpha=alpha)
