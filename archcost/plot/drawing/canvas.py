"""What all pictures share: a figure without pyplot, colours that the colour-blind tell apart, saving."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archcost.errors import ArchcostError, SpecError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008; the yellow is left out, which is too light for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK = "#222222"
GREY = "#8a8a8a"
PALE = "#e4e4e4"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. Raises ArchcostError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArchcostError("pictures need matplotlib: pip install 'archcost[plots]'") from error
    return Figure(figsize=(width, height), facecolor="white")


def check_path(path: str | os.PathLike[str] | None) -> None:
    """Before the work: raises SpecError where the suffix names no format that matplotlib writes."""
    if path is None:
        return
    formats = new_figure(1, 1).canvas.get_supported_filetypes()
    suffix = Path(path).suffix[1:].lower()
    if suffix not in formats:
        raise SpecError(
            f"{os.fspath(path)!r}: no picture format {suffix!r}; end the name in .png, .svg or .pdf"
        )


def finish(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """The figure, written to ``path`` where one is given; the same picture gives the same file."""
    if path is not None:
        import matplotlib

        suffix = Path(path).suffix[1:].lower()
        dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        try:
            with matplotlib.rc_context({"svg.hashsalt": "archcost"}):
                figure.savefig(path, dpi=150, metadata=dates.get(suffix))
        except OSError as error:
            raise ArchcostError(
                f"{os.fspath(path)!r} cannot be written: {error.strerror or error}"
            ) from error
    return figure


def plain(axes: Any) -> None:
    """An axes with nothing but what is drawn into it."""
    axes.set_axis_off()
    axes.set_aspect("equal")


def by(sizes: tuple[int, ...]) -> str:
    """``7 x 7``; with thin spaces, which no line is broken at."""
    return "\u2009×\u2009".join(map(str, sizes))


def spread(wanted: list[float], gap: float) -> list[float]:
    """Heights as near to the wanted ones as labels of height ``gap`` allow, in their order."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    groups: list[list[float]] = []  # sum of the starts that its members want, and how many there are
    for place, i in enumerate(order):
        groups.append([wanted[i] - place * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += count
    starts = [total / count for total, count in groups for _ in range(int(count))]
    placed = [0.0] * len(wanted)
    for place, (i, start) in enumerate(zip(order, starts, strict=True)):
        placed[i] = start + place * gap
    return placed
