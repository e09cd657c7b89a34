"""Sums and products with a constant along the last dimension as part of the linear layer in front."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from archcost.engine.activation import IDENTITY
from archcost.engine.graph import Edits, Graph, Node, Value, modules_of, swept
from archcost.engine.operators import Elementwise, Linear

__all__ = ["fold_linears"]


def fold_linears(graph: Graph) -> Graph:
    """Fold biases and scales: PyTorch itself adds the bias of a linear layer apart for some inputs."""
    return swept(graph, _changed)


def _changed(edits: Edits, node: Node) -> bool:
    operator = node.operator
    if not isinstance(operator, Elementwise) or operator.kind not in ("add", "mul"):
        return False
    for x, other in (node.inputs, node.inputs[::-1]):
        maker = edits.maker(x)
        if maker is None or not isinstance(layer := maker.operator, Linear) or layer.adds:
            continue
        values = _along_last(other, node.output.shape)
        if values is None or x.shape != node.output.shape or layer.activation != IDENTITY:
            continue
        if edits.only_user(x) is not node:
            continue
        bias = torch.zeros_like(values) if layer.bias is None else layer.bias.double()
        if operator.kind == "add":
            folded = replace(layer, bias=bias + values, activation=operator.activation)
        else:
            folded = replace(
                layer,
                weight=layer.weight.double() * values[:, None],
                bias=None if layer.bias is None else bias * values,
                activation=operator.activation,
            )
        modules = modules_of(maker, node)
        edits.replace([maker, node], [Node(folded, maker.inputs, node.output, modules)])
        return True
    return False


def _along_last(value: Value, shape: tuple[int, ...]) -> Tensor | None:
    """A constant with one number for each place of the last dimension; None for others."""
    constant = value.constant
    if constant is None or constant.numel() not in (1, shape[-1]) or len(value.shape) > len(shape):
        return None
    if constant.numel() > 1 and value.shape[-1] != shape[-1]:
        return None
    return constant.double().reshape(-1).expand(shape[-1])
