"""Compile a graph: the fastest program whose outputs are exact enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from torch import Tensor

from archcost.engine.choosing import Chosen, Times, choose
from archcost.engine.graph import Graph
from archcost.engine.program import Program
from archcost.surgery.outputs import worst_error

__all__ = ["Compiled", "compiled"]

# The most outputs of a Winograd tile along an axis: larger tiles are faster and less exact. The last limit
# leaves none.
_LIMITS = (inf, 4, 2, 0)


@dataclass(frozen=True)
class Compiled:
    """A program and how it was chosen."""

    program: Program
    chosen: Chosen
    """The variant of each layer."""
    error: float
    """max |y - exact| / max |exact|, the worst of its outputs."""
    limit: float
    """The most outputs of a Winograd tile that were allowed along an axis."""


def compiled(
    graph: Graph,
    inputs: Sequence[Tensor],
    exact: Sequence[Tensor],
    tolerance: float,
    *,
    times: Times | None = None,
    deadline: float | None = None,
    isa: str | None = None,
) -> Compiled:
    """The fastest program whose outputs are within the tolerance, or the most exact one.

    Args:
        graph: after all passes.
        inputs: of the graph, contiguous.
        exact: its outputs for these inputs, in float64.
        tolerance: of max |y - exact| / max |exact|.
        times: of variants measured before; new ones are added.
        deadline: of `time.perf_counter`; layers that are not reached by then run directly.
        isa: the instruction set of the kernels.
    """
    known: Times = {} if times is None else times
    until = time.perf_counter() + 60 if deadline is None else deadline
    best: Compiled | None = None
    for limit in _LIMITS:
        made, chosen = choose(graph, known=known, allowed=_within(limit), deadline=until, isa=isa)
        if best is not None and chosen == best.chosen:
            continue
        program = Program(made, isa)
        error = worst_error(program(inputs), list(exact))
        if best is None or error < best.error:
            best = Compiled(program, chosen, error, limit)
        if error <= tolerance:
            break
    assert best is not None
    return best


def _within(limit: float) -> Callable[[str], bool]:
    """Whether a variant's tile, if it has one, is small enough: F(6x6, 3x3) has 6 outputs along an axis."""

    def allowed(name: str) -> bool:
        if not name.startswith("F("):
            return True
        return max(map(int, name[2 : name.index(",")].split("x"))) <= limit

    return allowed
