"""The choice within a budget: a multiple-choice knapsack, solved exactly."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

__all__ = ["Item", "Unreachable", "chosen", "least"]

_SECONDS, _GAP = 10.0, 1e-3


class Item(NamedTuple):
    """A way to have a layer: what it spends of each resource, and what it costs in error."""

    spends: tuple[float, ...]
    error: float
    others: tuple[int, ...] = ()
    """Numbers of layers that must stay as they are with it, their first item."""


@dataclass(frozen=True)
class Unreachable(Exception):
    """No choice keeps the budget; holds the least that each resource could be alone."""

    least: tuple[float, ...]


def least(layers: Sequence[Sequence[Item]], resource: int) -> float:
    """The least that a choice can spend of a resource."""
    if not any(item.others for layer in layers for item in layer):
        return sum(min(item.spends[resource] for item in layer) for layer in layers)
    cheap = [[item._replace(error=item.spends[resource], spends=()) for item in layer] for layer in layers]
    taken = zip(layers, chosen(cheap, ()), strict=True)
    return sum(layer[at].spends[resource] for layer, at in taken)


def chosen(layers: Sequence[Sequence[Item]], limits: Sequence[float]) -> list[int]:
    """For each layer the number of its item, so that the sum of errors is least within all limits.

    A multiple-choice knapsack (P. Sinha and A. Zoltners, Operations Research 27, 1979) by HiGHS, within a
    relative gap of 1e-3. Items that another one of the layer beats in everything are left out first.

    Raises:
        Unreachable: no choice keeps the limits.
    """
    kept = [_undominated(layer) for layer in layers]
    if not kept:
        return []
    sizes = [len(layer) for layer in kept]
    error = np.array([layers[at][n].error for at, layer in enumerate(kept) for n in layer])
    error = error / max(abs(error).max(), 1e-300)
    spends = np.array([layers[at][n].spends for at, layer in enumerate(kept) for n in layer])
    owner = np.repeat(np.arange(len(kept)), sizes)
    one_each = csr_matrix(
        (np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(len(kept), len(owner))
    )
    constraints = [LinearConstraint(one_each, 1, 1)]
    taken = _taken(layers, kept)
    if taken is not None:
        constraints.append(LinearConstraint(taken, -np.inf, 1))
    scale = np.maximum(np.array(limits, dtype=float), 1e-300)
    if len(limits):
        constraints.append(LinearConstraint((spends / scale).T, -np.inf, 1.0))
    options = {"time_limit": _SECONDS, "mip_rel_gap": _GAP}
    with _quiet():
        found = milp(
            error,
            integrality=np.ones(len(owner)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options=options,
        )
    if found.x is None:
        raise Unreachable(tuple(least(layers, at) for at in range(len(limits))))
    picked = np.flatnonzero(found.x > 0.5)
    flat = [n for layer in kept for n in layer]
    by_owner = {int(owner[at]): flat[at] for at in picked}
    return [by_owner[at] for at in range(len(kept))]


@contextmanager
def _quiet() -> Iterator[None]:
    """HiGHS prints a line of its own to file descriptor 1 in some releases, in the middle of a JSON."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is none
        yield
        return
    away = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(away, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(away)


def _undominated(items: Sequence[Item]) -> list[int]:
    """Numbers of the items that no other one beats in error, everything spent and what it leaves free; and of
    the first, which items of other layers may need."""
    order = sorted(range(len(items)), key=lambda n: (items[n].error, items[n].spends))
    found: list[int] = []
    for n in order:
        one = items[n]
        if n == 0 or not any(
            set(items[m].others) <= set(one.others)
            and all(a <= b for a, b in zip(items[m].spends, one.spends, strict=True))
            for m in found
        ):
            found.append(n)
    return found


def _taken(layers: Sequence[Sequence[Item]], kept: Sequence[Sequence[int]]) -> csr_matrix | None:
    """A row for each layer that items of others need as it is: at most one of those and of its own, but for
    the first."""
    flat = [(at, n, layers[at][n].others) for at, layer in enumerate(kept) for n in layer]
    rows = [
        [column for column, (at, n, others) in enumerate(flat) if layer in others or (at == layer and n)]
        for layer in sorted({one for *_, others in flat for one in others})
    ]
    if not rows:
        return None
    across = [column for row in rows for column in row]
    down = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return csr_matrix((np.ones(len(across)), (down, across)), shape=(len(rows), len(flat)))


def shares(totals: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """The limits as shares of the totals."""
    return {name: limits[name] / totals[name] for name in limits if totals[name]}
