"""Neighbours without an activation between them as one layer, where that is fewer multiply-adds."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from archcost.engine.activation import IDENTITY
from archcost.engine.graph import Edits, Graph, Node, modules_of, swept
from archcost.engine.operators import Convolution, Linear

__all__ = ["merge_neighbours"]


def merge_neighbours(graph: Graph) -> Graph:
    """Multiply the kernels of two convolutions, one of them 1x1, or of two linear layers."""
    return swept(graph, _changed)


def _changed(edits: Edits, node: Node) -> bool:
    maker = edits.maker(node.inputs[0])
    if maker is None or edits.only_user(maker.output) is not node:
        return False
    first, second = maker.operator, node.operator
    merged: Convolution | Linear | None = None
    if isinstance(first, Linear) and isinstance(second, Linear):
        merged = _linear(first, second)
    elif isinstance(first, Convolution) and isinstance(second, Convolution):
        merged = _convolution(first, second, maker.output.shape[2:], node.output.shape[2:])
    if merged is None:
        return False
    modules = modules_of(maker, node)
    made = Node(merged, (maker.inputs[0], *node.inputs[1:]), node.output, modules)
    edits.replace([maker, node], [made])
    return True


def _linear(first: Linear, second: Linear) -> Linear | None:
    if first.activation != IDENTITY or first.adds:
        return None
    weight = second.weight.double() @ first.weight.double()
    if weight.numel() > first.weight.numel() + second.weight.numel():
        return None
    return replace(second, weight=weight, bias=_bias(first.bias, second.weight, second.bias))


def _convolution(
    first: Convolution, second: Convolution, middle: tuple[int, ...], last: tuple[int, ...]
) -> Convolution | None:
    if not (_plain(first) and _plain(second)) or first.activation != IDENTITY or first.adds:
        return None
    one, two = first.weight.double(), second.weight.double()
    if first.pointwise and first.stride == (1, 1):
        if first.bias is not None and second.padding != ((0, 0), (0, 0)):
            return None  # what is padded has no bias
        weight, like = torch.einsum("ohwm,mi->oihw", two.permute(0, 2, 3, 1), one[:, :, 0, 0]), second
    elif second.pointwise and second.stride == (1, 1):
        weight, like = torch.einsum("om,mihw->oihw", two[:, :, 0, 0], one), first
    else:
        return None
    pixels = last[0] * last[1]
    if weight.numel() * pixels > one.numel() * middle[0] * middle[1] + two.numel() * pixels:
        return None
    bias = _bias(first.bias, two.sum((2, 3)), second.bias)
    return replace(like, weight=weight, bias=bias, activation=second.activation, adds=second.adds)


def _plain(layer: Convolution) -> bool:
    return layer.groups == 1 and layer.before is None and layer.sources is None and not layer.gated


def _bias(first: Tensor | None, weight: Tensor, second: Tensor | None) -> Tensor | None:
    """The first layer's bias through the second one, and the second one's."""
    if first is None:
        return second
    through = weight.double() @ first.double()
    return through if second is None else through + second.double()
