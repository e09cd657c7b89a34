"""Read a Trace into a graph of the engine's operators."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from archcost.engine.graph import Graph
from archcost.engine.reading import convolutions, elementwise, products, reductions, shapes  # noqa: F401
from archcost.engine.reading.constants import Constants
from archcost.engine.reading.reader import Reader
from archcost.trace.graph import Trace

__all__ = ["read"]


def read(trace: Trace, state: Mapping[str, Tensor], constants: Constants | None = None) -> Graph:
    """The graph of a trace.

    Args:
        trace: of a model in evaluation mode.
        state: its parameters and buffers, by name.
        constants: what it reads beside these.

    Raises:
        Refused: its forward draws random numbers, decides by values, or changes its state or input.
    """
    return Reader(trace, state, constants or {}).graph()
