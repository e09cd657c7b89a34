"""Notes that depend on the tables shown: signs in their cells, explanations of their columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from archcost.report.grid import Grid
from archcost.report.text import visible

__all__ = ["LOWER_BOUND", "Explanations", "explained", "named", "signs"]

Explanations = tuple[tuple[str, tuple[str, ...]], ...]
"""Texts, each with the heads of the columns that it explains; without heads it is always shown."""

LOWER_BOUND = ("Lower bound", ">= marks sums without the operations that could not be counted")
"""The note on ``>=``."""


def signs(grids: Iterable[Grid]) -> list[tuple[str, str]]:
    """The notes on ``>=`` and ``?``, where a cell has them."""
    cells = {cell for grid in grids for entry in grid.entries for cell in entry.cells}
    bound = any(cell.startswith(">=") for cell in cells)
    lines = [LOWER_BOUND] * bound
    return lines + [("?", "not known")] * ("?" in cells)


def explained(texts: Explanations, grids: Iterable[Grid]) -> str:
    """The texts that explain a column of the tables, or no column, joined by semicolons."""
    heads = {head.text for grid in grids for head in grid.heads}
    return "; ".join(text for text, of in texts if not of or heads.intersection(of))


def named(names: Sequence[str], most: int = 6) -> str:
    """The first ``most`` names of a list, and how many more there are; the empty name is the model itself."""
    shown = [visible(name) or "(the model)" for name in names[:most]]
    more = len(names) - most
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
