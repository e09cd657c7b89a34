"""plot.winograd: F(m, r) from pixels to products to outputs, and its matrices as fractions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from archcost.plot.drawing.canvas import (
    COLOURS,
    DASHED,
    INK,
    MARGIN,
    SOFT,
    by,
    check_path,
    finish,
    legend,
    line_key,
    sheet,
)
from archcost.plot.drawing.cells import READ, arrow, box, draw_cells, lighter, say
from archcost.plot.drawing.styles import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from archcost.paths.algorithms.toom_cook import Matrix, ToomCook

__all__ = ["combination", "winograd"]

_PLUS, _MINUS, _CONSTANT, _SHARED = COLOURS[0], COLOURS[1], COLOURS[5], COLOURS[3]
_WIDTH = 10.0  # inches, as all that follows
_HEAD, _FLOW_HEAD, _GAP = 0.95, 0.5, 0.5
_ROW, _LINE = 0.56, 0.29
_TEXT = 8.5


class _MatrixBlock(NamedTuple):
    """A matrix of the drawing: its name, its title, and the widths of its columns."""

    gid: str
    title: str
    matrix: Matrix
    widths: list[float]


def winograd(m: int, r: int, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw Winograd's F(m, r): from m + r - 1 pixels by as many products to m outputs, and its matrices.

    Args:
        m: the number of outputs of a tile.
        r: the taps of the kernel; a tile has m + r - 1 pixels, at most 12.
        path: as in `plot.growth`.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        InputError: m or r is below 1, or there are too few points.
        SpecError: an unknown suffix.
    """
    from archcost.paths.algorithms.toom_cook import toom_cook

    check_path(path)
    matrices = toom_cook(m, r)
    n = m + r - 1
    row = _ROW if n <= 6 else 0.42
    flow = _FLOW_HEAD + n * row + _GAP
    cell = 0.26 if n <= 6 else 0.16
    plane = 0.62 + n * cell + 0.85
    lines = _arranged(_blocks(matrices))
    high = [_LINE * max(len(block.matrix) for block in line) + 0.75 for line in lines]
    width = max(_WIDTH, *(_wide(line) + 2 * MARGIN for line in lines))
    height = _HEAD + flow + plane + sum(high)
    title = f"Winograd's F({m}, {r}): {n} multiplications in place of {m * r}"
    said = f"{_many(m, 'output')} of a kernel of {_many(r, 'tap')}, from {_many(n, 'pixel')} at a time"
    figure, axes = sheet(width, height, title, said)
    top = height - _HEAD
    _draw_flow(axes, matrices, row, width, top)
    _draw_planes(axes, m, r, cell, width, top - flow)
    top -= flow + plane
    for line, tall in zip(lines, high, strict=True):
        _draw_matrices(axes, line, width, top)
        top -= tall
    _explain(axes, width, height - 0.34)
    return finish(figure, path)


def combination(row: Sequence[Fraction], name: str) -> str:
    """A row of a matrix as a sum, with the common factor outside: ``(g0 + 2 g1 + 4 g2) / 24``."""
    below = lcm(*(value.denominator for value in row))
    above = [int(value * below) for value in row]
    common = gcd(*above) or 1
    first = next((value for value in above if value), 1)
    # A row that begins with a minus is written with the sign outside.
    sign = -1 if first < 0 else 1
    said = ""
    for i, value in enumerate(value // common * sign for value in above):
        if value:
            operator = (" \u2212 " if value < 0 else " + ") if said else ""
            said += f"{operator}{'' if abs(value) == 1 else f'{abs(value)} '}{name}{i}"
    factor = Fraction(common, below) * sign
    if factor != 1 and sum(value != 0 for value in above) > 1:
        said = f"({said})"
    front = "\u2212" * (sign < 0) + (f"{abs(factor.numerator)} " if abs(factor.numerator) > 1 else "")
    return front + said + (f" / {factor.denominator}" if factor.denominator > 1 else "")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _draw_flow(axes: Axes, matrices: ToomCook, row: float, width: float, top: float) -> None:
    """Draw pixels on the left, products in the middle, outputs on the right; a line for each entry not 0."""
    n, m, r = len(matrices.input), len(matrices.output), len(matrices.kernel[0])
    taps = [combination(line, "g") for line in matrices.kernel]
    if max(map(len, taps)) > 34:
        taps = [f"row {i} of G g" for i in range(n)]
    wide = max(2.0, 0.085 * (max(map(len, taps)) + 4) + 0.3)
    middle = width / 2
    pixels, outputs = MARGIN + 0.75, width - MARGIN - 0.75
    first = top - _FLOW_HEAD - row / 2
    places = [first - i * row for i in range(n)]
    last = [first - (n - m) * row / 2 - i * row for i in range(m)]
    say(axes, pixels, top - 0.2, _many(n, "pixel"))
    say(axes, middle, top - 0.2, f"{_many(n, 'product')} with transformed taps")
    say(axes, outputs, top - 0.2, _many(m, "output"))
    for j, line in enumerate(matrices.input):
        for i, value in enumerate(line):
            _draw_line(axes, value, (pixels + 0.17, places[i]), (middle - wide / 2, places[j]), f"in {j} {i}")
    for j, line in enumerate(matrices.output):
        for i, value in enumerate(line):
            _draw_line(axes, value, (middle + wide / 2, places[i]), (outputs - 0.17, last[j]), f"out {j} {i}")
    high = min(0.34, 0.8 * row)
    for i in range(n):
        _draw_box(axes, pixels, places[i], 0.34, high, f"d{i}", READ, "pixel")
        said = f"\u00d7 {taps[i]}"
        _draw_box(axes, middle, places[i], wide, high, said, lighter(_CONSTANT, 0.72), "product")
    for j in range(m):
        _draw_box(axes, outputs, last[j], 0.34, high, f"y{j}", READ, "output")
    said = f"g0 \u2026 g{r - 1}: the taps, transformed once" if r > 1 else "g0: the tap"
    say(axes, middle, places[-1] - row / 2 - 0.1, said, 9, color=SOFT)


def _draw_box(
    axes: Axes, x: float, y: float, wide: float, high: float, text: str, fill: str, gid: str
) -> None:
    box(axes, x - wide / 2, y + high / 2, wide, high, gid, text, facecolor=fill, linewidth=1, zorder=3)


def _draw_line(axes: Axes, value: Fraction, start: Point, end: Point, gid: str) -> None:
    if not value:
        return
    sign, line = (_PLUS, "-") if value > 0 else (_MINUS, DASHED)
    width = 1.5 if abs(value) == 1 else 0.8
    axes.plot(*zip(start, end, strict=True), color=sign, linestyle=line, linewidth=width, zorder=1.5, gid=gid)


def _explain(axes: Axes, width: float, y: float) -> None:
    marks = [
        line_key("added", color=_PLUS, linewidth=1.5),
        line_key("subtracted", color=_MINUS, linewidth=1.5, linestyle=DASHED),
        line_key("thin: times a constant", color=SOFT, linewidth=0.8),
    ]
    at = (width - MARGIN + 0.1, y - 0.16)
    legend(
        axes, marks, at, 9, loc="center right", ncols=1, borderpad=0.4, handlelength=2.2, labelspacing=0.25
    )


def _draw_planes(axes: Axes, m: int, r: int, cell: float, width: float, top: float) -> None:
    """Draw the tile in two dimensions: n x n pixels, n x n products, m x m outputs."""
    n = m + r - 1
    say(axes, MARGIN, top - 0.1, "In two dimensions", 11.5, ha="left")
    middle = top - 0.62 - n * cell / 2
    centres = [width * share for share in (0.18, 0.5, 0.82)]
    shared = np.zeros((n, n), dtype=int)
    if r > 1:
        shared[m:] = shared[:, m:] = 1
    tiles = (shared, np.full((n, n), 2), np.full((m, m), 3))
    colours = [READ, lighter(_SHARED, 0.55), lighter(_CONSTANT, 0.72), lighter(_PLUS, 0.75)]
    last = f"the last {r - 1} rows and columns" if r > 2 else "the last row and column"
    names = (
        f"{by((n, n))} pixels" + f", {last}\nare the next tile's as well" * (r > 1),
        f"{n * n} products, in place of {(m * r) ** 2}",
        f"{by((m, m))} outputs",
    )
    for centre, tile, name in zip(centres, tiles, names, strict=True):
        side = len(tile) * cell
        corner = (centre - side / 2, middle + side / 2)
        draw_cells(axes, corner, cell, tile, lambda kind: colours[kind], "tile", lambda _: "")
        say(axes, centre, middle - n * cell / 2 - 0.12, name, 9.5, va="top")
    for before, after, size in ((0, 1, n), (1, 2, m)):
        start, end = centres[before] + n * cell / 2 + 0.25, centres[after] - size * cell / 2 - 0.25
        arrow(axes, (start, middle), (end, middle))
        what = ("B$^T$ d B, times G g G$^T$", "A$^T$ [ ] A")[before]
        say(axes, (start + end) / 2, middle + 0.17, what, 8.5, color=SOFT)


def _blocks(matrices: ToomCook) -> list[_MatrixBlock]:
    named = (
        ("input", "B$^T$: pixels to points", matrices.input),
        ("kernel", "G: taps to points", matrices.kernel),
        ("output", "A$^T$: products to outputs", matrices.output),
    )
    blocks = []
    for gid, title, matrix in named:
        widths = [
            max(0.36, max(len(_said(row[c])) for row in matrix) * 0.078 + 0.14) for c in range(len(matrix[0]))
        ]
        blocks.append(_MatrixBlock(gid, title, matrix, widths))
    return blocks


def _said(value: Fraction) -> str:
    return str(value).replace("-", "\u2212")


def _least(block: _MatrixBlock) -> float:
    """The width of a matrix: that of its columns, or of its title."""
    return max(sum(block.widths), 0.078 * len(block.title.replace("$^T$", "T")) + 0.1)


def _wide(line: list[_MatrixBlock]) -> float:
    return sum(map(_least, line)) + 0.5 * (len(line) - 1)


def _arranged(blocks: list[_MatrixBlock]) -> list[list[_MatrixBlock]]:
    """The matrices in lines, as many side by side as the width allows."""
    lines: list[list[_MatrixBlock]] = [[]]
    for block in blocks:
        if lines[-1] and _wide([*lines[-1], block]) > _WIDTH - 2 * MARGIN:
            lines.append([])
        lines[-1].append(block)
    return lines


def _draw_matrices(axes: Axes, line: list[_MatrixBlock], width: float, top: float) -> None:
    """Draw a line of matrices; 0 is pale, and entries other than 1 and -1, which multiply, are tinted."""
    spare = (width - 2 * MARGIN - sum(map(_least, line))) / (len(line) + 1)
    left = MARGIN + spare
    for block in line:
        say(axes, left, top - 0.18, block.title, 10.5, ha="left")
        for i, row in enumerate(block.matrix):
            x, upper = left, top - 0.4 - i * _LINE
            for j, (value, wide) in enumerate(zip(row, block.widths, strict=True)):
                fill = "#ffffff" if abs(value) in (0, 1) else lighter(_CONSTANT, 0.72)
                box(axes, x, upper, wide, _LINE, facecolor=fill, zorder=1)
                place, colour = (x + wide / 2, upper - _LINE / 2), INK if value else "#a8a8a8"
                gid = f"{block.gid} {i} {j}"
                say(axes, *place, _said(value), _TEXT, va="center_baseline", color=colour, gid=gid)
                x += wide
        left += _least(block) + spare
