"""Least squares with no negative coefficient (Lawson and Hanson, "Solving Least Squares Problems", 1974)."""

from __future__ import annotations

from typing import Any

__all__ = ["nonnegative_least_squares"]


def nonnegative_least_squares(matrix: Any, target: Any) -> Any:
    """The ``x >= 0`` for which ``matrix @ x`` is nearest to ``target``: exact, for a few columns.

    Coefficients enter one at a time, where the residual asks for them most, and leave when they would fall
    below 0. Columns are scaled first: counts of multiplications and the number 1 are far apart.
    """
    import numpy as np

    a, b = np.asarray(matrix, dtype=float), np.asarray(target, dtype=float)
    scale = np.linalg.norm(a, axis=0)
    scale[scale == 0] = 1.0
    a = a / scale
    count = a.shape[1]
    x, free = np.zeros(count), np.zeros(count, dtype=bool)
    least = 1e-12 * max(1.0, float(np.abs(a.T @ b).max(initial=0.0)))
    # Each set of free columns comes up once at most, so that it ends; the bound is for rounding alone.
    for _ in range(3 * 2**count):
        pull = a.T @ (b - a @ x)
        pull[free] = -np.inf
        if free.all() or pull.max() <= least:
            break
        free[int(pull.argmax())] = True
        while True:
            tried = np.zeros(count)
            tried[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            sunk = free & (tried <= 0)
            if not sunk.any():
                break
            # As far towards it as all stay at or above 0; those that arrive there are fixed again.
            step = float((x[sunk] / (x[sunk] - tried[sunk])).min()) if (x[sunk] != tried[sunk]).all() else 0.0
            x = x + step * (tried - x)
            free &= x > 1e-15
            x[~free] = 0.0
        x = tried
    return x / scale
