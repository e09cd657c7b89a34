"""Notes below tables that depend on what is on show: signs in the cells, columns to be explained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from archcost.report.grid import Grid
from archcost.report.text import visible

__all__ = ["Explanations", "explained", "named", "signs"]

Explanations = tuple[tuple[str, tuple[str, ...]], ...]
"""Texts, each with the heads of the columns that it explains; none where it holds for all."""


def signs(grids: Iterable[Grid]) -> list[tuple[str, str]]:
    """What ``>=`` and ``?`` mean, where they are on show."""
    cells = {cell for grid in grids for entry in grid.entries for cell in entry.cells}
    bound = any(cell.startswith(">=") for cell in cells)
    lines = [("Lower bound", "what is marked >= leaves out what was not counted")] * bound
    return lines + [("?", "not known")] * ("?" in cells)


def explained(texts: Explanations, grids: Iterable[Grid]) -> str:
    """Those of the texts that explain a column on show, or none."""
    heads = {head.text for grid in grids for head in grid.heads}
    return "; ".join(text for text, of in texts if not of or heads.intersection(of))


def named(names: Sequence[str], most: int = 6) -> str:
    """The first names of a list, and how many more there are; the empty name is the model's own."""
    shown = [visible(name) or "(the model)" for name in names[:most]]
    more = len(names) - most
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
