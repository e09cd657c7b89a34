"""Evaluate a graph with PyTorch, one operator after the other: what passes and programs are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archcost.engine.graph import Graph, Value

__all__ = ["evaluate"]


def evaluate(graph: Graph, inputs: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The graph's outputs for these inputs, computed in a dtype."""
    known: dict[Value, Tensor] = {}
    for value, tensor in zip(graph.inputs, inputs, strict=True):
        known[value] = _cast(tensor, dtype)

    def tensor_of(value: Value) -> Tensor:
        if value.constant is not None:
            return _cast(value.constant, dtype)
        return known[value]

    for node in graph.nodes:
        made = node.operator.reference(*map(tensor_of, node.inputs))
        for value, tensor in zip(node.outputs, made if node.also else (made,), strict=True):
            if tuple(tensor.shape) != value.shape:
                raise AssertionError(f"{node.operator}: {tuple(tensor.shape)} for {value.shape}")
            known[value] = tensor
    return [tensor_of(value) for value in graph.outputs]


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
