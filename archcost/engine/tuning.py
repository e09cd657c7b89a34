"""Tune: the choice of each layer's variant tried inside of the whole program, where the caches are shared.

All layers change to their next best variants at once, and programs take turns: the times of a layer's steps
tell which of its variants is faster there. What comes of it is run against what was, as a whole.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from statistics import median

from torch import Tensor

from archcost.engine.choosing import Times, choose, outputs_of_tile, variants
from archcost.engine.graph import Edits, Graph, Value
from archcost.engine.kept import key_of
from archcost.engine.program import Program

__all__ = ["tune"]

# Variants are tried that take at most so much longer by themselves.
_COMPETES = 1.6
# The most variants of a layer.
_MOST = 4
_ROUNDS = 15
# What is less is no difference between two programs.
_NOISE = 0.005


def tune(
    graph: Graph,
    times: Times,
    inputs: Sequence[Tensor],
    *,
    allowed: Callable[[str, str], bool] = lambda key, name: True,
    deadline: float = inf,
) -> bool:
    """Correct the times of variants by how they compare inside of the program, until nothing changes.

    Args:
        graph: after all passes.
        times: of variants by themselves; corrected ones are put in, and only ever in their proportions.
        inputs: of the program.
        allowed: whether a variant may be taken, by the key of a layer and its name.
        deadline: of `time.perf_counter`.

    Returns:
        Whether other variants are chosen now.
    """
    gained = False
    tried: set[tuple[str, str]] = set()
    while time.perf_counter() < deadline:
        _, chosen = choose(graph, known=times, allowed=allowed, deadline=-inf)
        program = _Built(graph, chosen)
        ranked = _ranked(graph, times, chosen, allowed)
        corrected = dict(times)
        for place in range(_MOST - 1):
            other = {
                key: names[place]
                for key, names in ranked.items()
                if len(names) > place and (key, names[place]) not in tried
            }
            if not other or time.perf_counter() >= deadline:
                break
            tried.update(other.items())
            changed = _Built(graph, {**chosen, **other})
            for key, ratio in _compared(changed, program, other, inputs, deadline).items():
                corrected[key, other[key]] = corrected[key, chosen[key]] * ratio
        _, better = choose(graph, known=corrected, allowed=allowed, deadline=-inf)
        if better == chosen or not _faster(_Built(graph, better), program, inputs, deadline):
            break
        times.update(corrected)
        gained = True
    return gained


def _ranked(
    graph: Graph, times: Times, chosen: Mapping[str, str], allowed: Callable[[str, str], bool]
) -> dict[str, list[str]]:
    """For each layer the variants that compete with the chosen one, the best first."""
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        if len(ways := variants(node)) < 2 or (key := key_of(node)) in found:
            continue
        names = [name for name, _ in ways if allowed(key, name)]
        own = times.get((key, chosen[key]), 0.0)
        others = [
            name for name in names if name != chosen[key] and times.get((key, name), inf) <= _COMPETES * own
        ]
        found[key] = sorted(others, key=lambda name: (times[key, name], outputs_of_tile(name)))
    return {key: names for key, names in found.items() if names}


class _Built:
    """The program of a graph with these variants, and which layer each of its steps belongs to."""

    def __init__(self, graph: Graph, names: Mapping[str, str]) -> None:
        self.names = names
        edits, makers = Edits(graph), dict[Value, str]()
        for node in graph.nodes:
            found = dict(variants(node))
            if len(found) < 2 or (key := key_of(node)) not in names:
                continue
            nodes = found[names[key]]
            edits.replace([node], nodes)
            makers.update((value, key) for one in nodes for value in one.outputs)
        self.program = Program(edits.done())
        self._keys = [makers.get(step.node.output) for step in self.program.steps]

    def by_layer(self, inputs: Sequence[Tensor]) -> dict[str, float]:
        """Seconds by the key of a layer."""
        taken: list[float] = []
        self.program(inputs)  # its own weights are in the caches again
        self.program(inputs, taken)
        found: dict[str, float] = defaultdict(float)
        for key, seconds in zip(self._keys, taken, strict=True):
            if key is not None:
                found[key] += seconds
        return found

    def seconds(self, inputs: Sequence[Tensor]) -> float:
        """Seconds of all."""
        self.program(inputs)
        began = time.perf_counter()
        self.program(inputs)
        return time.perf_counter() - began


def _compared(
    changed: _Built, before: _Built, keys: Iterable[str], inputs: Sequence[Tensor], deadline: float
) -> dict[str, float]:
    """How many times as long layers take in one program as in another."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for number in range(_ROUNDS + 1):
        if number > 1 and time.perf_counter() >= deadline:
            break
        sides = (changed, before) if number % 2 else (before, changed)
        taken = {side: side.by_layer(inputs) for side in sides}
        if number:  # the first one fetches weights and memory
            for key in keys:
                ratios[key].append(taken[changed][key] / taken[before][key])
    return {key: median(found) for key, found in ratios.items()}


def _faster(program: _Built, before: _Built, inputs: Sequence[Tensor], deadline: float) -> bool:
    """Whether the program is faster than the one before, beyond the noise."""
    ratios: list[float] = []
    for number in range(2 * _ROUNDS):
        if number > 2 and time.perf_counter() >= deadline:
            break
        sides = (program, before) if number % 2 else (before, program)
        seconds = {side: side.seconds(inputs) for side in sides}
        if number > 1:
            ratios.append(seconds[program] / seconds[before])
    return bool(ratios) and median(ratios) < 1 - _NOISE
