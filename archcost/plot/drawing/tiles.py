"""plot.tiles: the overlapping tiles of the Fourier and Winograd paths, and the numbers they discard."""

from __future__ import annotations

import os
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from archcost.errors import SpecError
from archcost.plot.drawing.canvas import (
    COLOURS,
    DASHED,
    GREY,
    MARGIN,
    SOFT,
    by,
    check_path,
    finish,
    legend,
    patch_key,
    sheet,
)
from archcost.plot.drawing.cells import EDGE, arrow, box, frame, lighter, say
from archcost.plot.drawing.styles import AreaStyle, LegendStyle, LineStyle, Point
from archcost.plot.drawing.tiling import KEPT, OUTSIDE, STRIDE, WRAPS, Tiling, tiling
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from archcost.paths.path import ExecutionPath

__all__ = ["tiles"]

_MOST, _MOST_TILES = 160, 12  # cells a side; tiles of a sequence
_WIDTH, _GAP = 11.0, 0.75  # inches, as all that follows
_HEAD, _LABEL, _FOOT = 1.45, 0.75, 0.5
_LARGEST, _LINES = 0.3, 0.075  # cells: the largest, and from where on they are parted by lines
_FIRST, _SECOND = COLOURS[1], COLOURS[0]
_SAID = {
    KEPT: "an output",
    STRIDE: "thrown away: the stride skips it",
    WRAPS: "thrown away: wrapped around",
    OUTSIDE: "thrown away: beyond the map",
}


def tiles(
    spec: ConvSpec, algorithm: str | ExecutionPath, *, path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draw the overlapping tiles of a Fourier or Winograd path, and which computed numbers are outputs.

    From left to right: the input with its first two tiles, the numbers computed for a tile, the outputs. A
    sequence is drawn as a strip with a row for each tile. Colours tell outputs from numbers that wrap around,
    that the stride skips, or that lie beyond the edge of the map.

    Args:
        spec: a convolution with one or two axes. Where stride or dilation split it into several plain
            convolutions, the largest of them is drawn, and the picture says so.
        algorithm: an execution path with tiles, by name or as an `ExecutionPath`: "fft", "fft-16",
            "winograd-4" ...
        path: as in `plot.growth`.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: a path without tiles or that refuses the convolution, three axes, a transposed
            convolution, more pixels than a picture can show, or an unknown suffix.
    """
    check_path(path)
    cut = tiling(spec, algorithm)
    _check(cut)
    figure = _draw_sequence(cut) if len(cut.taps) == 1 else _draw_map(cut)
    return finish(figure, path)


def _check(cut: Tiling) -> None:
    if len(cut.taps) > 2:
        raise SpecError("plot.tiles: maps and sequences are drawn, not volumes")
    sides = [*cut.readers().shape, *cut.size]
    if max(sides) > _MOST:
        raise SpecError(
            f"plot.tiles: {max(sides)} pixels a side, and a picture shows up to {_MOST}; take a smaller "
            f"input_size"
        )
    if len(cut.taps) == 1 and cut.tiles[0] > _MOST_TILES:
        raise SpecError(
            f"plot.tiles: {cut.tiles[0]} tiles, and a picture shows up to {_MOST_TILES} of a sequence; take "
            f"a smaller input_size or larger tiles"
        )


def _colours() -> list[str]:
    """The colours of the kinds of numbers, distinct in lightness as well as in hue."""
    return [lighter(COLOURS[4], 0.45), "#ffffff", lighter(COLOURS[5], 0.1), "#cfcfcf"]


def _shades() -> list[str]:
    """The shades of pixels, darker where several tiles read them."""
    return [lighter(COLOURS[0], share) for share in (0.9, 0.72, 0.55, 0.4)]


def _canvas(cut: Tiling, width: float, height: float) -> tuple[Figure, Axes]:
    plural = "s" * (prod(cut.tiles) != 1)
    title = f"{cut.name}: {by(cut.taps)} taps, {prod(cut.tiles)} tile{plural} of {by(cut.size)} pixels"
    kept = f"{cut.kept} of the {cut.computed} numbers computed are outputs, {cut.kept / cut.computed:.0%}"
    part = f"of the {cut.parts} plain convolutions that stride and dilation make, this is the largest"
    return sheet(width, height, title, kept, *[part] * (cut.parts > 1))


def _draw_map(cut: Tiling) -> Figure:
    readers, tile, outputs = cut.readers(), cut.tile(), cut.map()
    around = tile.shape if cut.wraps else cut.size
    high = max(readers.shape[0], around[0], outputs.shape[0])
    wide = readers.shape[1] + around[1] + outputs.shape[1]
    cell = min(_LARGEST, (_WIDTH - 2 * MARGIN - 2 * _GAP) / wide, 6.5 / high)
    # A narrow tile is no narrower than its captions.
    columns = [max(cell * n, 2.3) for n in (readers.shape[1], around[1], outputs.shape[1])]
    width = max(sum(columns) + 2 * _GAP + 2 * MARGIN, 8.6)
    height = _HEAD + cell * high + _LABEL + _FOOT
    figure, axes = _canvas(cut, width, height)
    middle = height - _HEAD - cell * high / 2
    left = (width - sum(columns) - 2 * _GAP) / 2
    centres = [left + sum(columns[:i]) + i * _GAP + columns[i] / 2 for i in range(3)]
    _draw_input(axes, cut, readers, cell, (centres[0], middle))
    _draw_tile(axes, cut, tile, cell, (centres[1], middle))
    _draw_outputs(axes, cut, outputs, cell, (centres[2], middle))
    edges = [(readers.shape[1], around[1]), (around[1], outputs.shape[1])]
    for i, (before, after) in enumerate(edges):
        ends = centres[i] + cell * before / 2 + 0.12, centres[i + 1] - cell * after / 2 - 0.12
        arrow(axes, (ends[0], middle), (ends[1], middle))
    _explain(axes, cut, np.union1d(tile, outputs))
    return figure


def _draw_input(axes: Axes, cut: Tiling, readers: np.ndarray, cell: float, centre: Point) -> None:
    """Draw the pixels, darker where several tiles read them, hatched beyond the input."""
    left, top = _draw_kinds(axes, _shade(readers), _shades(), cell, centre, "readers")
    tall, wide = readers.shape
    for gid, (r, c, rows, columns) in _beyond(cut.input, readers.shape).items():
        _hatch(axes, left + c * cell, top - r * cell, columns * cell, rows * cell, gid)
    sides = cut.size[1] * cell, cut.size[0] * cell
    frame(axes, left, top, *sides, _FIRST, "first tile", 2.2)
    if cut.tiles[1] > 1:
        start = left + cut.step[1] * cell
        frame(axes, start, top, *sides, _SECOND, "second tile", 1.6, linestyle=DASHED)
    below = f"input with padding: {by(cut.input)}"
    if (tall, wide) != cut.input:
        below += f"\nfilled up to {by((tall, wide))}, hatched"
    above = "pixels, darker where tiles overlap" if prod(cut.tiles) > 1 else "pixels"
    _caption(axes, above, below, centre, cell * tall)


def _shade(readers: np.ndarray) -> np.ndarray:
    """The index of a shade by the number of tiles: 0 for one, 1 for two, 2 for up to four, 3 for more."""
    return np.asarray(np.minimum(np.ceil(np.log2(readers)), 3), dtype=int)


def _beyond(given: tuple[int, ...], filled: tuple[int, ...]) -> dict[str, tuple[int, int, int, int]]:
    """The areas filled up below and on the right, as (row, column, rows, columns), without overlap."""
    (h, w), (tall, wide) = given, filled
    parts = {"beyond, below": (h, 0, tall - h, wide), "beyond, right": (0, w, h, wide - w)}
    return {gid: part for gid, part in parts.items() if min(part[2:]) > 0}


def _draw_tile(axes: Axes, cut: Tiling, tile: np.ndarray, cell: float, centre: Point) -> None:
    """Draw the numbers computed for a tile, in the frame of its pixels where these are more."""
    _draw_kinds(axes, tile, _colours(), cell, centre, "tile")
    rows, columns = tile.shape if cut.wraps else cut.size
    corner = (centre[0] - columns * cell / 2, centre[1] + rows * cell / 2)
    frame(axes, *corner, columns * cell, rows * cell, _FIRST, "tile", 2.2)
    above, below = "the first tile", f"{by(cut.size)} pixels give\n{by(cut.step)} outputs"
    if cut.wraps:
        above, below = f"{above} gives", f"{by(cut.size)} numbers, {by(cut.step)}\nhave not wrapped around"
    _caption(axes, above, below, centre, cell * rows)


def _draw_outputs(axes: Axes, cut: Tiling, outputs: np.ndarray, cell: float, centre: Point) -> None:
    left, top = _draw_kinds(axes, outputs, _colours(), cell, centre, "outputs")
    tall, wide = outputs.shape
    for r in range(1, cut.tiles[0]):
        y = top - r * cut.step[0] * cell
        axes.plot([left, left + wide * cell], [y, y], color=SOFT, linewidth=1.1, zorder=3)
    for c in range(1, cut.tiles[1]):
        x = left + c * cut.step[1] * cell
        axes.plot([x, x], [top, top - tall * cell], color=SOFT, linewidth=1.1, zorder=3)
    frame(axes, left, top, cut.step[1] * cell, cut.step[0] * cell, _FIRST, "first outputs", 2.2)
    kept = tuple(-(-n // s) for n, s in zip(cut.output, cut.stride, strict=True))
    below = f"{by(cut.output)} outputs"
    if kept != cut.output:
        below += f",\n{by(kept)} of them kept"
    above = "tiles side by side" if prod(cut.tiles) > 1 else "outputs"
    _caption(axes, above, below, centre, cell * tall)


def _draw_kinds(
    axes: Axes, kinds: np.ndarray, colours: list[str], cell: float, centre: Point, gid: str
) -> Point:
    """Draw an array with a coloured cell for each number; returns its left and upper edge."""
    from matplotlib.colors import ListedColormap

    tall, wide = (n * cell for n in kinds.shape)
    left, top = centre[0] - wide / 2, centre[1] + tall / 2
    axes.imshow(
        kinds, extent=(left, left + wide, top - tall, top), cmap=ListedColormap(colours), vmin=-0.5,
        vmax=len(colours) - 0.5, interpolation="nearest", aspect="equal", zorder=1, gid=gid,
    )  # fmt: skip
    if cell >= _LINES:
        style: LineStyle = {"color": EDGE, "linewidth": 0.5, "zorder": 1.5}
        axes.vlines(left + cell * np.arange(kinds.shape[1] + 1), top - tall, top, **style)
        axes.hlines(top - cell * np.arange(kinds.shape[0] + 1), left, left + wide, **style)
    else:
        frame(axes, left, top, wide, tall, EDGE, f"edge of {gid}", 0.7)
    return left, top


def _hatch(axes: Axes, left: float, upper: float, wide: float, tall: float, gid: str) -> None:
    style: AreaStyle = {"facecolor": "white", "edgecolor": "#9a9a9a", "linewidth": 0, "hatch": "////"}
    box(axes, left, upper, wide, tall, gid, **style)


def _caption(axes: Axes, above: str, below: str, centre: Point, tall: float) -> None:
    say(axes, centre[0], centre[1] + tall / 2 + 0.2, above)
    say(axes, centre[0], centre[1] - tall / 2 - 0.12, below, 9.5, va="top", linespacing=1.3, color=SOFT)


def _draw_sequence(cut: Tiling) -> Figure:
    """Draw a sequence: the input, each tile below it in its place, and the outputs."""
    readers, outputs = cut.readers()[None], cut.map()[None]
    label, row = 1.15, 0.42
    wide = readers.shape[1]
    cell = min(_LARGEST, (_WIDTH - 2 * MARGIN - label) / wide)
    width = max(2 * MARGIN + label + cell * wide, 8.6)
    height = _HEAD + (cut.tiles[0] + 2) * row + 0.6 + _FOOT
    figure, axes = _canvas(cut, width, height)
    left, y = MARGIN + label, height - _HEAD + 0.1
    high = min(cell, 0.3)
    pixels = f"{cut.input[0]} pixels, padding included" + ", darker where tiles overlap" * (cut.tiles[0] > 1)
    rows = [("input", _shade(readers), 0, pixels)]
    lengths = cut.size[0] if cut.wraps else cut.step[0]
    for tile in range(cut.tiles[0]):
        start = tile * cut.step[0]
        at = start + np.arange(lengths)
        kinds = np.where(at < cut.output[0], np.where(at % cut.stride[0], STRIDE, KEPT), OUTSIDE)
        kinds[cut.step[0] :] = WRAPS
        rows.append((f"tile {tile + 1}", kinds[None], start, ""))
    kept = f", {cut.kept} of them kept" * (cut.kept != cut.output[0])
    rows.append(("output", outputs, 0, f"{cut.output[0]} outputs{kept}"))
    for i, (name, kinds, start, below) in enumerate(rows):
        y -= 0.3 * (i in (1, len(rows) - 1))
        x = left + start * cell
        colours = _colours() if i else _shades()
        _draw_kinds(axes, kinds, colours, cell, (x + cell * kinds.shape[1] / 2, y), name)
        say(axes, MARGIN, y, name, ha="left")
        if not i and wide > cut.input[0]:
            missing = (wide - cut.input[0]) * cell
            _hatch(axes, left + cut.input[0] * cell, y + cell / 2, missing, cell, "beyond")
        if 0 < i <= cut.tiles[0]:
            colour, line = (_FIRST, 1.8) if i == 1 else (SOFT, 1.0)
            frame(axes, x, y + cell / 2, cut.size[0] * cell, cell, colour, f"frame {i}", line)
        if below:
            say(axes, left, y - high / 2 - 0.14, below, 9, ha="left", color=SOFT)
        y -= max(row, cell + 0.1)
    kinds = np.concatenate([kinds.ravel() for _, kinds, _, _ in rows[1:]])
    _explain(axes, cut, np.unique(kinds))
    return figure


def _explain(axes: Axes, cut: Tiling, kinds: np.ndarray) -> None:
    kept = partial(patch_key, edgecolor=GREY, linewidth=0.8)
    tile = partial(patch_key, facecolor="none")
    marks = [kept(_SAID[kind], facecolor=_colours()[kind]) for kind in sorted(kinds)]
    marks.append(tile("the first tile", edgecolor=_FIRST, linewidth=2.2))
    if len(cut.taps) == 2 and cut.tiles[1] > 1:
        marks.append(tile("the second", edgecolor=_SECOND, linewidth=1.6, linestyle=DASHED))
    spaces: LegendStyle = {"columnspacing": 1.4, "handlelength": 1.4, "handletextpad": 0.5}
    legend(axes, marks, (MARGIN - 0.1, 0.08), 9.5, **spaces)
