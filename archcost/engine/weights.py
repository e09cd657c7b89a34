"""Weights in the operators of a graph: rounded to what kernels read, and let go of once they are packed."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from archcost.engine.graph import Graph, Node
from archcost.engine.operators import Convolution, InvertedResidual

__all__ = ["give_back", "rounded", "without_weights"]


def rounded(nodes: list[Node]) -> None:
    """Put convolutions with weights in float32 in the place of those in double precision, one by one: what
    folding made is twice as large as what is packed."""
    for number, node in enumerate(nodes):
        if isinstance(node.operator, (Convolution, InvertedResidual)):
            nodes[number] = replace(node, operator=_mapped(node.operator, _to_float32))


def without_weights(graph: Graph, nodes: set[Node]) -> dict[Node, Node]:
    """Nodes whose weights have shapes, and no elements."""
    return {
        node: replace(node, operator=_mapped(node.operator, lambda tensor: tensor.to("meta")))
        for node in graph.nodes
        if node in nodes
    }


def give_back() -> None:
    """Return freed memory to the system, where C's library keeps it for later."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.dtype is torch.float64 else tensor


def _mapped(held: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(held, Tensor):
        return change(held)
    if not dataclasses.is_dataclass(held) or isinstance(held, type):
        return held
    before = {one.name: getattr(held, one.name) for one in dataclasses.fields(held)}
    after = {name: _mapped(value, change) for name, value in before.items()}
    return held if all(after[name] is before[name] for name in before) else replace(held, **after)
