"""Classes: elements along a dimension that see the same are held once, and a map says which is which.

A map is an array of whole numbers, one for each element along the dimension: the index of its class. All
classes occur. Heads beside windows, a border beside what it frames, and channels of a few branches vary
along dimensions of thousands of elements, and are a few classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Map", "Maps", "compacted", "flattened", "same", "together", "unique_columns"]

Map = np.ndarray | None
"""None: each element is a class of its own, or all are one."""
Maps = tuple[Map, ...]


def same(a: Map, b: Map) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def compacted(found: np.ndarray) -> tuple[np.ndarray, Map]:
    """The classes that occur in ``found``, and the map to them; None where no two elements are of one."""
    used, where = np.unique(found, return_inverse=True)
    if len(used) == len(found):
        return found, None
    return used, where if len(used) > 1 else None


def together(a: Map, a_count: int, b: Map, b_count: int) -> tuple[np.ndarray, np.ndarray, Map]:
    """Classes that refine those of two maps of one dimension: which of each they are of, and their map."""
    a = np.arange(a_count) if a is None else a
    b = np.arange(b_count) if b is None else b
    pairs, found = compacted(a * b_count + b)
    return pairs // b_count, pairs % b_count, found


def flattened(maps: Sequence[Map], counts: Sequence[int], sizes: Sequence[int]) -> Map:
    """The map of several dimensions written after one another, of so many classes and elements each."""
    if all(m is None and k == n for m, k, n in zip(maps, counts, sizes, strict=True)):
        return None
    whole = np.zeros((1,), np.int64)
    for m, k, n in zip(maps, counts, sizes, strict=True):
        along = np.zeros(n, np.int64) if k == 1 else np.arange(n) if m is None else m
        whole = (whole[:, None] * k + along).ravel()
    return whole


def unique_columns(table: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The first of each of the different columns, and for every column which of them it is."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    which = np.empty(table.shape[1], np.int64)
    for i, column in enumerate(np.ascontiguousarray(table.T)):
        number = seen.setdefault(column.tobytes(), len(first))
        if number == len(first):
            first.append(i)
        which[i] = number
    return first, which
