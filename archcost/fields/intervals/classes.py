"""Classes: elements along a dimension with equal intervals are stored once, as a class.

A map is an integer array with the class index of each element along the dimension; every class occurs.
Attention heads beside windows, borders, and channels of several branches vary along dimensions of thousands
of elements but have few classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Map", "Maps", "compacted", "flattened", "same", "together", "unique_columns"]

Map = np.ndarray | None
"""The class index of each element; None if each element is its own class, or all are in one class."""
Maps = tuple[Map, ...]


def same(a: Map, b: Map) -> bool:
    """Whether two maps are equal."""
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def compacted(found: np.ndarray) -> tuple[np.ndarray, Map]:
    """The class indices that occur in ``found``, and the map to them; None if no two share a class."""
    used, where = np.unique(found, return_inverse=True)
    if len(used) == len(found):
        return found, None
    return used, where if len(used) > 1 else None


def together(a: Map, a_count: int, b: Map, b_count: int) -> tuple[np.ndarray, np.ndarray, Map]:
    """The common refinement of two maps: the class in each map of every refined class, and its map."""
    a = np.arange(a_count) if a is None else a
    b = np.arange(b_count) if b is None else b
    pairs, found = compacted(a * b_count + b)
    return pairs // b_count, pairs % b_count, found


def flattened(maps: Sequence[Map], counts: Sequence[int], sizes: Sequence[int]) -> Map:
    """The map of several dimensions flattened into one, from their maps, class counts and sizes."""
    if all(m is None and k == n for m, k, n in zip(maps, counts, sizes, strict=True)):
        return None
    whole = np.zeros((1,), np.int64)
    for m, k, n in zip(maps, counts, sizes, strict=True):
        along = np.zeros(n, np.int64) if k == 1 else np.arange(n) if m is None else m
        whole = (whole[:, None] * k + along).ravel()
    return whole


def unique_columns(table: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The indices of the distinct columns of a table, and the index into those for each column."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    which = np.empty(table.shape[1], np.int64)
    for i, column in enumerate(np.ascontiguousarray(table.T)):
        number = seen.setdefault(column.tobytes(), len(first))
        if number == len(first):
            first.append(i)
        which[i] = number
    return first, which
