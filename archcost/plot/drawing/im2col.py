"""plot.im2col: the pixels of a small input, and the im2col matrix in which they are repeated."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from archcost.errors import ArchcostError, SpecError
from archcost.plot.drawing.canvas import (
    COLOURS,
    INK,
    MARGIN,
    SOFT,
    by,
    check_path,
    finish,
    legend,
    line_key,
    once,
    sheet,
)
from archcost.plot.drawing.cells import EDGE, arrow, draw_cells, frame, lighter, say
from archcost.plot.drawing.styles import Point
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["im2col", "numbered"]

_MOST = 64  # cells a side
_GAP, _WIDEST = 1.0, 14.0  # inches, as all that follows
_LARGEST = 0.36
_HEAD, _FOOT = 1.35, 0.75
_WINDOW, _PIXEL = COLOURS[1], INK


def numbered(spec: ConvSpec) -> tuple[np.ndarray, np.ndarray]:
    """The padded input, with its pixels numbered from 1 and padding 0, and its im2col matrix.

    Returns:
        Arrays of (channels, rows, columns), with a single row for a sequence, and of
        (channels * taps, positions).
    """
    import torch

    from archcost.paths.algorithms.im2col import im2col
    from archcost.paths.geometry import padded

    size = spec.input_size
    image = torch.arange(1.0, spec.in_channels * prod(size) + 1).reshape(1, spec.in_channels, *size)
    image = padded(image, spec)
    matrix = im2col(image, spec)[0].long().numpy()
    rows = image.shape[2] if len(size) == 2 else 1
    return image.reshape(spec.in_channels, rows, -1).long().numpy(), matrix


def im2col(spec: ConvSpec, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the im2col matrix of a small convolution, and where each pixel of the input is repeated in it.

    The pixels are numbered from 1 and coloured; padding is 0 and white. The first window and its column in
    the matrix are framed, and one pixel wherever it occurs.

    Args:
        spec: a convolution with one or two spatial axes and a matrix of up to 64 x 64. The first image of a
            batch is drawn.
        path: as in `plot.growth`.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: three axes, a transposed convolution, a matrix too large, or an unknown suffix.
    """
    check_path(path)
    _check(spec)
    spec = replace(spec, batch=1)
    image, matrix = numbered(spec)
    channels, tall, wide = image.shape
    # Channels stand below one another, half a cell apart.
    high = max(channels * tall + 0.5 * (channels - 1), matrix.shape[0])
    room = _WIDEST - 2 * MARGIN - _GAP - 0.6
    cell = min(_LARGEST, room / (wide + matrix.shape[1]), 7.5 / high)
    need = 2 * MARGIN + _GAP + 0.6 + cell * (wide + matrix.shape[1])
    width, height = max(need, 7.6), _HEAD + cell * high + _FOOT
    figure, axes = sheet(width, height, *_title(spec, matrix, width))
    left, upper = MARGIN + (width - need) / 2, height - _HEAD
    most = _most_repeated(matrix)
    _draw_image(axes, spec, image, matrix, most, cell, (left, upper - cell * (high - _high(image)) / 2))
    middle = upper - cell * high / 2
    right = left + cell * wide
    arrow(axes, (right + 0.15, middle), (right + _GAP - 0.2, middle))
    corner = (right + _GAP + 0.3, upper - cell * (high - matrix.shape[0]) / 2)
    _draw_matrix(axes, spec, matrix, most, cell, corner)
    _explain(axes, matrix, most)
    return finish(figure, path)


def _check(spec: ConvSpec) -> None:
    axes = len(spec.output_size)
    if not isinstance(spec, ConvSpec) or axes > 2:
        raise SpecError(f"plot.im2col: a ConvSpec of one or two axes can be drawn, not one of {axes}")
    if spec.transposed:
        raise SpecError("plot.im2col: transposed convolutions are not drawn: their product comes first")
    from archcost.paths.geometry import refusal

    reason = refusal(spec)
    if reason is not None:
        raise SpecError(f"plot.im2col: {reason}")
    if not _is_small(spec):
        rows, columns = _sides(spec)
        raise SpecError(
            f"plot.im2col: the matrix is {rows}x{columns}, and a picture shows up to {_MOST} a side; "
            f"{_mend(spec)}"
        )


def _sides(spec: ConvSpec) -> tuple[int, int]:

    return spec.in_channels * prod(spec.kernel_size), prod(spec.output_size)


def _is_small(spec: ConvSpec) -> bool:
    from archcost.paths.geometry import padded_elements

    pixels = max(padded_elements(replace(spec, batch=1)), spec.in_channels * prod(spec.input_size))
    return max(_sides(spec)) <= _MOST and pixels <= _MOST * 8


def _mend(spec: ConvSpec) -> str:
    """The change to the spec that makes it small enough, as code."""
    for side in range(16, 0, -1):
        size = (side,) * len(spec.output_size)
        with suppress(ArchcostError):  # the kernel is larger than the input
            if _is_small(replace(spec, in_channels=1, out_channels=1, groups=1, input_size=size)):
                change = f"in_channels=1, out_channels=1, groups=1, input_size={size}"
                return f"this can be drawn: dataclasses.replace(spec, {change})"
    return "take a smaller kernel"


def _most_repeated(matrix: np.ndarray) -> int:
    """The number of the pixel that occurs most often in the matrix; the middle one where several do."""
    numbers, counts = np.unique(matrix[matrix > 0], return_counts=True)
    often = numbers[counts == counts.max()] if len(numbers) else np.zeros(1, dtype=int)
    return int(often[(len(often) - 1) // 2])


@cache
def _turbo() -> Colormap:
    from matplotlib import colormaps

    return colormaps["turbo"]  # a copy each time


def _colour(number: int, count: int) -> str:
    """The colour of a pixel: a light rainbow from the first to the last, white for padding."""
    from matplotlib.colors import to_hex

    if number == 0:
        return "#ffffff"
    return lighter(to_hex(_turbo()(0.06 + 0.88 * (number - 1) / max(count - 1, 1))), 0.45)


def _high(image: np.ndarray) -> float:
    return float(image.shape[0] * image.shape[1] + 0.5 * (image.shape[0] - 1))


def _draw_image(
    axes: Axes, spec: ConvSpec, image: np.ndarray, matrix: np.ndarray, most: int, cell: float, corner: Point
) -> None:
    left, upper = corner
    count = int(image.max())
    say(axes, left + cell * image.shape[2] / 2, upper + 0.2, "the input")
    extent = (1, *spec.extent)[-2:]
    for channel, plane in enumerate(image):
        top = upper - channel * (image.shape[1] + 0.5) * cell
        draw_cells(axes, (left, top), cell, plane, lambda n: _colour(n, count), f"pixel {channel}")
        frame(axes, left, top, extent[1] * cell, extent[0] * cell, _WINDOW, f"window {channel}")
        for r, c in np.argwhere(plane == most) if most else []:
            _mark(axes, left + c * cell, top - r * cell, cell, "repeated pixel")


def _mark(axes: Axes, left: float, upper: float, cell: float, gid: str) -> None:
    """Frame the repeated pixel, inside its cell."""
    inset = min(0.03, cell * 0.1)
    frame(axes, left + inset, upper - inset, cell - 2 * inset, cell - 2 * inset, _PIXEL, gid, 1.8)


def _draw_matrix(
    axes: Axes, spec: ConvSpec, matrix: np.ndarray, most: int, cell: float, corner: Point
) -> None:
    left, upper = corner
    rows, columns = matrix.shape
    count = spec.in_channels * prod(spec.input_size)
    say(axes, left + cell * columns / 2, upper + 0.2, f"a column for each of the {columns} positions")
    each = rows // spec.groups
    weights = f"a row for each of the {each} weights of a filter" + ", by groups" * (spec.groups > 1)
    say(axes, left - 0.18, upper - cell * rows / 2, _broken(weights, cell * rows), rotation=90, va="center")
    draw_cells(axes, corner, cell, matrix, lambda n: _colour(n, count), "matrix")
    taps = rows // spec.in_channels
    for channel in range(1, spec.in_channels):
        y = upper - channel * taps * cell
        axes.plot([left, left + columns * cell], [y, y], color=SOFT, linewidth=1.8, zorder=3)
    frame(axes, left, upper, cell, rows * cell, _WINDOW, "column")
    for r, c in np.argwhere(matrix == most) if most else []:
        _mark(axes, left + c * cell, upper - r * cell, cell, "repeated")


def _broken(text: str, room: float) -> str:
    """The text, or a shorter one where the side of the matrix has no room for it."""
    return text if len(text) * 0.075 < room else "weights" if room > 0.55 else ""


def _title(spec: ConvSpec, matrix: np.ndarray, width: float) -> tuple[str, str]:
    kernel, size = by(spec.kernel_size), by(spec.input_size)
    stride = _said("stride", spec.stride) + _said("dilation", spec.dilation)
    title = f"im2col: a kernel of {kernel}{stride} over an input of {size}"
    inputs = spec.in_channels * prod(spec.input_size)
    filters = spec.out_channels // spec.groups
    rows, columns = matrix.shape
    product = (
        f"filters {by((filters, rows // spec.groups))} times matrix {by((rows // spec.groups, columns))}"
    )
    product += f" gives {by((filters, columns))}" + f", for each of {spec.groups} groups" * (spec.groups > 1)
    times = matrix.size / inputs
    said = f"{inputs} numbers become {matrix.size}, {times:.3g} times as many; {product}"
    if len(said) * 0.066 > width - 2 * MARGIN:
        said = said.partition(";")[0]
    return title, said


def _said(name: str, values: tuple[int, ...]) -> str:
    return "" if max(values) == 1 else f", {name} {once(values)},"


def _explain(axes: Axes, matrix: np.ndarray, most: int) -> None:
    count = int((matrix == most).sum())
    where = "once" if count == 1 else f"{count} times"
    square = partial(line_key, linestyle="", marker="s", markersize=10, markerfacecolor="white")
    marks = [square("first window, first column", markeredgecolor=_WINDOW, markeredgewidth=2.2)]
    if most:
        said = f"pixel {most} stands in the matrix {where}"
        marks.append(square(said, markeredgecolor=_PIXEL, markeredgewidth=1.8))
    if (matrix == 0).any():
        marks.append(square("0: padding", markeredgecolor=EDGE))
    legend(axes, marks, (MARGIN - 0.1, 0.1), 10, columnspacing=1.6, handletextpad=0.4)
