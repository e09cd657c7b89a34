"""plot.strassen: the seven products on the 4x4 grid of all sixteen, and n^2.807 against n^3."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from functools import partial
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from archcost.errors import InputError
from archcost.plot.drawing.canvas import COLOURS, GREY, INK, MARGIN, SOFT, check_path, dress, finish, sheet
from archcost.plot.drawing.cells import draw_cells, lighter, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from archcost.plot.drawing.styles import LineStyle

__all__ = ["combinations", "crossover", "operands", "strassen"]

_QUARTERS = ("11", "12", "21", "22")
_PLUS, _MINUS = COLOURS[0], COLOURS[1]
_WIDTH = 12.0  # inches, as all that follows
_CELL = 0.25
_LAST = 13  # the curve goes up to matrices of 2 ** 13


class StrassenTime(TypedDict):
    """The time of a product of square matrices."""

    size: int
    levels: int
    """Levels of recursion; 0 is the ordinary product."""
    seconds: float


class StrassenTimes(TypedDict):
    """The output of ``benchmarks/strassen.py --json``."""

    where: str
    """The machine."""
    rows: Sequence[StrassenTime]


def operands() -> tuple[np.ndarray, np.ndarray]:
    """The coefficients of the quarters of A and of B in the seven products, two arrays of (7, 4).

    They are computed by the steps of `strassen_matmul`, with one quarter at a time set to 1.
    """
    import torch

    from archcost.paths.algorithms.strassen import left_operands, right_operands

    units = torch.eye(4).reshape(4, 2, 2)
    sides = (left_operands(units, 1), right_operands(units, 1))
    left, right = (side.reshape(7, 4).round().int().numpy() for side in sides)
    return left, right


def combinations() -> np.ndarray:
    """The coefficients of the seven products in the quarters of the result, an array of (4, 7)."""
    import torch

    from archcost.paths.algorithms.strassen import joined

    found = joined(torch.eye(7).reshape(7, 7, 1, 1), 1)
    return np.asarray(found.reshape(7, 4).round().int().numpy().T)


def crossover(rows: Iterable[StrassenTime], levels: int) -> int | None:
    """The size from which on ``levels`` of recursion are faster than none at every measured size, or None."""
    seconds = {(row["levels"], row["size"]): row["seconds"] for row in rows}
    found = None
    for size in sorted((n for level, n in seconds if level == levels), reverse=True):
        if (0, size) not in seconds or seconds[levels, size] >= seconds[0, size]:
            break
        found = size
    return found


def strassen(
    measured: StrassenTimes | str | os.PathLike[str] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw Strassen's seven products, how they add up to the result, and n^2.807 against n^3.

    Each product is a pattern of plus and minus on the sixteen products of a quarter of A by a quarter of B,
    in the form with 15 additions that `archcost.paths.strassen_matmul` computes.

    Args:
        measured: the output of ``benchmarks/strassen.py --json``, as a dict or the name of the file; its
            times are drawn beside the counts.
        path: as in `plot.growth`.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        InputError: ``measured`` is not of this form.
        SpecError: an unknown suffix.
    """
    check_path(path)
    where, rows = _read(measured)
    height = 9.1
    said = "A and B are cut into quarters; a square is a quarter of A times a quarter of B, added (+) or "
    said += "subtracted (\u2212)"
    figure, axes = sheet(_WIDTH, height, "Strassen: seven products in place of eight", said)
    left, right = operands()
    _draw_products(axes, left, right, height - 1.5)
    _draw_results(axes, left, right, combinations(), height - 3.95)
    bottom, tall = 0.62 / height, 2.6 / height
    if rows:
        _draw_growth(figure.add_axes((0.075, bottom, 0.385, tall)))
        _draw_times(figure.add_axes((0.565, bottom, 0.40, tall)), where, rows)
    else:
        _draw_growth(figure.add_axes((0.075, bottom, 0.89, tall)))
    return finish(figure, path)


def _read(measured: StrassenTimes | str | os.PathLike[str] | None) -> tuple[str, list[StrassenTime]]:
    """The machine and the rows of a measurement, from a dict or from a file of the benchmark."""
    if measured is None:
        return "", []
    what = "plot.strassen: measured is what benchmarks/strassen.py --json writes"
    if isinstance(measured, (str, os.PathLike)):
        try:
            times: StrassenTimes = json.loads(Path(measured).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{what}; {os.fspath(measured)!r} cannot be read: {error}") from error
    else:
        times = measured
    try:
        rows = list(times["rows"])
        good = all(row["size"] > 0 and row["levels"] >= 0 and row["seconds"] > 0 for row in rows)
    except (KeyError, TypeError) as error:
        raise InputError(
            f'{what}: {{"where": ..., "rows": [{{"size": ..., "levels": ..., "seconds": ...}}, ...]}}'
        ) from error
    ordinary = {row["size"] for row in rows if row["levels"] == 0}
    if not rows or not good or {row["size"] for row in rows} != ordinary or len(rows) == len(ordinary):
        raise InputError(f"{what}: every size needs positive seconds for levels 0, and some for levels above")
    return str(times.get("where", "")), rows


def _draw_products(axes: Axes, left: np.ndarray, right: np.ndarray, top: float) -> None:
    """Draw a grid for each product: quarters of A down, quarters of B across."""
    step = (_WIDTH - 2 * MARGIN - 0.3) / 7
    for i in range(7):
        x = MARGIN + 0.3 + i * step + (step - 0.12 - 4 * _CELL) / 2
        middle = x + 2 * _CELL
        say(axes, middle, top + 0.5, f"P{i + 1}", 11.5, weight="bold")
        _draw_grid(axes, np.outer(left[i], right[i]), x, top, f"product {i}", side=i == 0)
        below = top - 4 * _CELL - 0.22
        say(axes, middle, below, _sum(left[i], "A"), 8, color=SOFT)
        say(axes, middle, below - 0.2, f"\u00d7 {_sum(right[i], 'B')}", 8, color=SOFT)


def _draw_results(axes: Axes, left: np.ndarray, right: np.ndarray, parts: np.ndarray, top: float) -> None:
    """Draw a grid for each quarter of the result: the sum of its products."""
    step = (_WIDTH - 2 * MARGIN - 0.3) / 4
    for i, quarter in enumerate(_QUARTERS):
        x = MARGIN + 0.3 + i * step + (step - 4 * _CELL) / 2
        middle = x + 2 * _CELL
        grid = sum(n * np.outer(a, b) for n, a, b in zip(parts[i], left, right, strict=True))
        say(axes, middle, top + 0.5, f"C{quarter} = {_added(parts[i])}", 10.5, weight="bold")
        _draw_grid(axes, np.asarray(grid), x, top, f"result {i}", side=i == 0)
        terms = [f"A{_QUARTERS[r]} B{_QUARTERS[c]}" for r, c in np.argwhere(grid)]
        say(axes, middle, top - 4 * _CELL - 0.2, " + ".join(terms), 9, color=SOFT)


def _draw_grid(axes: Axes, grid: np.ndarray, x: float, top: float, gid: str, side: bool) -> None:
    def fill(value: int) -> str:
        return "#ffffff" if value == 0 else lighter(_PLUS if value > 0 else _MINUS, 0.45)

    def text(value: int) -> str:
        return "" if value == 0 else "+" if value > 0 else "\u2212"

    draw_cells(axes, (x, top), _CELL, grid, fill, gid, text, largest=10)
    for i, quarter in enumerate(_QUARTERS):
        say(axes, x + (i + 0.5) * _CELL, top + 0.11, quarter, 7, color=SOFT)
        say(axes, x - 0.12, top - (i + 0.5) * _CELL, quarter, 7, color=SOFT)
    say(axes, x + 2 * _CELL, top + 0.27, "B", 8, color=SOFT)
    if side:
        say(axes, x - 0.33, top - 2 * _CELL, "A", 8, color=SOFT)


def _sum(counts: np.ndarray, name: str) -> str:
    """A sum of quarters: ``(A11 + A12 \u2212 A21)``."""
    said = ""
    for n, quarter in sorted(zip(counts, _QUARTERS, strict=True), key=lambda pair: (-pair[0], pair[1])):
        if n:
            sign = ("\u2212" if n < 0 else "") if not said else (" \u2212 " if n < 0 else " + ")
            said += f"{sign}{name}{quarter}"
    return f"({said})" if " " in said else said


def _added(counts: np.ndarray) -> str:
    """A sum of products with the subtracted ones last: ``P1 + P6 \u2212 P4``."""
    order = sorted(range(7), key=lambda i: -counts[i])
    said = "".join(f" {'+' if counts[i] > 0 else chr(0x2212)} P{i + 1}" for i in order if counts[i])
    return said.removeprefix(" + ")


def _dress(axes: Axes, title: str, below: str, beside: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    dress(axes, below, beside, 9.5, 8.5)


def _draw_growth(axes: Axes) -> None:
    """Draw both counts, with recursion down to single numbers."""
    sizes = 2.0 ** np.arange(_LAST + 1)
    axes.plot(sizes, sizes**3, color=GREY, linewidth=2, gid="cube")
    axes.plot(sizes, sizes ** log2(7), color=_PLUS, linewidth=2, gid="strassen")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.set_xlim(1, sizes[-1] * 1.15)
    axes.set_ylim(1, 1e13)
    axes.set_xticks([2**k for k in range(0, _LAST + 1, 3)], [f"{2**k:,}" for k in range(0, _LAST + 1, 3)])
    axes.set_yticks([10**k for k in range(0, 13, 3)], ["1", "1 k", "1 M", "1 G", "1 T"])
    axes.minorticks_off()
    note = partial(axes.annotate, textcoords="offset points", fontsize=10)
    note("n³", (2.0**8, 2.0**24), (-6, 6), ha="right", color=SOFT)
    at, less = 2.0**7, f"{(7 / 8) ** _LAST:.0%}"
    said = f"n$^{{2.807}}$: {less} of n³ at {2**_LAST:,}"
    note(said, (at, at ** log2(7)), (12, -6), va="top", color=_PLUS)
    _dress(axes, "on paper: halved down to single numbers", "size n of the matrices", "multiplications")


def _draw_times(axes: Axes, where: str, rows: list[StrassenTime]) -> None:
    """Draw the time for each number of levels relative to the ordinary product."""
    ordinary = {row["size"]: row["seconds"] for row in rows if row["levels"] == 0}
    levels = sorted({row["levels"] for row in rows} - {0})
    sizes = sorted(ordinary)
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    axes.axhline(1, color=INK, linewidth=1.2, zorder=2)
    for i, level in enumerate(levels):
        found = sorted((row["size"], row["seconds"]) for row in rows if row["levels"] == level)
        ratios = [seconds / ordinary[size] for size, seconds in found]
        colour = COLOURS[i % (len(COLOURS) - 1)]
        at = crossover(rows, level)
        plural = "s" * (level > 1)
        label = f"{level} level{plural}: " + (f"faster from {at:,} on" if at else "nowhere faster")
        style: LineStyle = {"color": colour, "linewidth": 1.8, "markersize": 5, "zorder": 3}
        axes.plot([size for size, _ in found], ratios, "o-", label=label, gid=f"levels {level}", **style)
        if at:
            ring: LineStyle = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.5}
            ratio = dict(zip((size for size, _ in found), ratios, strict=True))[at]
            axes.plot([at], [ratio], "o", color=colour, gid=f"crossover {level}", zorder=4, **ring)
        axes.axhline((7 / 8) ** level, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1.5)
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    if len(sizes) > 5:
        _thin(axes, sizes)
    axes.minorticks_off()
    low, high = axes.get_ylim()
    low = min(low, (7 / 8) ** levels[-1] * 0.93)
    ticks = [tick for tick in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 12, 20) if low <= tick <= high]
    axes.set_yscale("log", base=2)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(low, high * 1.1)
    axes.minorticks_off()
    axes.legend(fontsize=9, frameon=False, loc="upper right", handlelength=1.6)
    below = "size n; dashed: multiplications, as a share of the ordinary product's"
    _dress(axes, "measured" + f": {where}" * bool(where), below, "time, ordinary product = 1")


def _thin(axes: Axes, sizes: list[int]) -> None:
    """Label only sizes that are a factor of 1.9 apart."""
    named: list[int] = []
    for size in sizes:
        if not named or size >= 1.9 * named[-1]:
            named.append(size)
    axes.set_xticks(named, [f"{n:,}" for n in named])
