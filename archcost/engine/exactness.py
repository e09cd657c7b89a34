"""Exactness: which variants to give up where a program's outputs are off by too much, for the least time.

Rounding errors of layers add up in squares, as they are independent. A variant's own error is measured once,
on a small layer; how much of it reaches the outputs, by programs in which one layer alone is inexact. A price
on squared errors, in seconds, then picks a variant for each layer; the lowest that makes the outputs exact
enough is found by bisection.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from math import inf

import torch

from archcost.engine.choosing import Times, variants
from archcost.engine.evaluate import evaluate
from archcost.engine.graph import Graph, Node, Value
from archcost.engine.kept import key_of
from archcost.engine.operators import Convolution
from archcost.engine.program import Program
from archcost.kernels.packing import WinogradTile

__all__ = ["Banned", "Exactness"]

Banned = frozenset[tuple[str, str]]
"""Keys of layers, and names of variants that are not exact enough there."""

# So much of what is allowed is aimed at: the next program's error is an estimate.
_AIM = 0.9
_STEPS = 80
# Of the square of the error that is there in any case: less cannot be told.
_LEAST = 0.05


class Exactness:
    """The error that each layer adds to that of the outputs.

    Args:
        graph: after all passes.
        times: of its layers' variants.
        error_of: the error of a program with these variants, by the keys of layers.
        allowed: what the error may be.
    """

    def __init__(
        self, graph: Graph, times: Times, error_of: Callable[[Mapping[str, str]], float], allowed: float
    ) -> None:
        self._times, self._error_of, self._allowed = times, error_of, allowed
        self._layers = Counter(key_of(node) for node in graph.nodes if len(variants(node)) > 1)
        self._own = _errors(graph)
        self._exact = {key: min(own, key=lambda name: own[name]) for key, own in self._own.items()}
        self._floor = 0.0
        self._reaches: dict[str, float] = {}

    def probe(self, chosen: Mapping[str, str], deadline: float) -> None:
        """Find how much of each layer's error reaches the outputs, those that gain most time first."""
        self._floor = self._error_of(self._exact) ** 2
        gains = {
            key: count
            * (self._times.get((key, self._exact[key]), 0.0) - self._times.get((key, chosen[key]), 0.0))
            for key, count in self._layers.items()
            if self._own[key][chosen[key]]
        }
        for key in sorted(gains, key=lambda key: -gains[key]):
            if time.perf_counter() >= deadline:
                return
            added = self._error_of({**self._exact, key: chosen[key]}) ** 2 - self._floor
            own = self._layers[key] * self._own[key][chosen[key]]
            self._reaches[key] = max(added, _LEAST * self._floor) / own

    def without(self, chosen: Mapping[str, str], banned: Banned, off: float) -> Banned:
        """Variants to do without, beside those banned already; none where all are as exact as can be.

        Args:
            chosen: the variants of the program that is off.
            banned: variants that it does without.
            off: the error of its outputs.
        """
        free = {key: [name for name in self._own[key] if (key, name) not in banned] for key in self._layers}
        errors = self._reaching(chosen, off)
        if not any(self._own[key][chosen[key]] for key in self._layers):
            return Banned()
        room = max((_AIM * self._allowed) ** 2 - self._floor, 0.0)
        low, high = 1e-12, 1e24  # seconds for the square of a relative error
        for _ in range(_STEPS):
            price = (low * high) ** 0.5
            picked = self._picked(errors, free, price)
            if sum(count * errors[key][picked[key]] for key, count in self._layers.items()) > room:
                low = price
            else:
                high = price
        picked = self._picked(errors, free, high)
        found = {
            (key, name)
            for key in self._layers
            for name in free[key]
            if errors[key][name] > errors[key][picked[key]]
        }
        if any(one in found for one in chosen.items()):
            return Banned(found)
        worst = max(self._own[key][chosen[key]] for key in self._layers)  # the estimate was wrong
        return Banned((key, name) for key in free for name in free[key] if self._own[key][name] >= worst)

    def _reaching(self, chosen: Mapping[str, str], off: float) -> dict[str, dict[str, float]]:
        """The square of what each variant adds to the outputs' error, the chosen ones ``off`` in all."""
        own = {key: self._own[key][chosen[key]] for key in self._layers}
        probed = sum(self._layers[key] * own[key] * reach for key, reach in self._reaches.items())
        rest = sum(self._layers[key] * own[key] for key in self._layers if key not in self._reaches)
        left = max(off**2 - self._floor - probed, _LEAST * self._floor)
        usual = left / rest if rest else 1.0
        return {
            key: {name: self._reaches.get(key, usual) * one for name, one in self._own[key].items()}
            for key in self._layers
        }

    def _picked(
        self,
        errors: Mapping[str, Mapping[str, float]],
        free: Mapping[str, Collection[str]],
        price: float,
    ) -> dict[str, str]:
        def cost(key: str, name: str) -> float:
            # What was never timed is no choice, but for the first, which always is.
            seconds = self._times.get((key, name), 0.0 if name == self._exact[key] else inf)
            return seconds + price * errors[key][name]

        return {key: min(names, key=lambda name, key=key: cost(key, name)) for key, names in free.items()}  # type: ignore[misc]


def _errors(graph: Graph) -> dict[str, dict[str, float]]:
    """The square of each variant's own relative error, by the key of a layer; 0 for those without one."""
    found: dict[str, dict[str, float]] = {}
    for node in graph.nodes:
        if len(ways := variants(node)) > 1 and (key := key_of(node)) not in found:
            found[key] = {name: sum(map(_square, nodes)) for name, nodes in ways}
    return found


def _square(node: Node) -> float:
    operator = node.operator
    if isinstance(operator, Convolution) and (operator.tile is not None or operator.fourier):
        return _of_tile(operator.tile) ** 2
    return 0.0


@functools.cache
def _of_tile(tile: WinogradTile | None) -> float:
    """The relative error of a small layer by this tile; by Fourier rows where there is none."""
    if tile is None:
        return 5e-7
    (height, width), made = tile.taps, torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 16, 24, 24, generator=made), torch.randn(16, 16, height, width, generator=made)
    none = ((0, 0), (0, 0))
    layer = Convolution(weight, None, (1, 1), none, (1, 1), 1, tile=tile)
    given, output = Value((1, 16, 24, 24)), Value((1, 16, 25 - height, 25 - width))
    graph = Graph((Node(layer, (given,), output),), (given,), (output,))
    (y,), (expected,) = Program(graph)([x]), evaluate(graph, [x])
    return float((y - expected).norm() / expected.norm())
