"""Parallel linear branches as one convolution: RepVGG (Ding et al., 2021, arXiv:2101.03697) at inference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from archcost.engine.activation import IDENTITY
from archcost.engine.graph import Edits, Graph, Node, modules_of, swept
from archcost.engine.operators import Affine, Convolution, Elementwise

__all__ = ["merge_branches"]


def merge_branches(graph: Graph) -> Graph:
    """Sum the kernels of convolutions, and scales, whose results are added and that read the same."""
    return swept(graph, _changed)


def _changed(edits: Edits, node: Node) -> bool:
    if not isinstance(node.operator, Elementwise) or node.operator.kind != "add":
        return False
    a, b = (edits.maker(value) for value in node.inputs)
    if a is None or b is None or a is b or not (_alone(edits, a, node) and _alone(edits, b, node)):
        return False
    if a.inputs != b.inputs:
        return False
    if isinstance(a.operator, Affine):
        a, b = b, a
    merged = _merged(a.operator, b.operator)
    if merged is None:
        return False
    modules = modules_of(a, b, node)
    operator = replace(merged, activation=node.operator.activation)
    edits.replace([a, b, node], [Node(operator, a.inputs, node.output, modules)])
    return True


def _alone(edits: Edits, maker: Node, node: Node) -> bool:
    operator = maker.operator
    if not isinstance(operator, (Affine, Convolution)) or operator.activation != IDENTITY:
        return False
    if isinstance(operator, Convolution) and (operator.adds or operator.gated or operator.before is not None):
        return False
    return edits.only_user(maker.output) is node


def _merged(first: object, second: object) -> Convolution | None:
    """One convolution that does what both do together; None where they do not fit each other."""
    if not isinstance(first, Convolution):
        return None
    if isinstance(second, Affine):
        second = _as_convolution(second, first)
    if not isinstance(second, Convolution) or second.groups != first.groups or second.stride != first.stride:
        return None
    if second.weight.shape[0] != first.weight.shape[0] or second.sources is not None:
        return None
    large, small = first, second
    if large.weight.shape[2] * large.weight.shape[3] < small.weight.shape[2] * small.weight.shape[3]:
        large, small = small, large
    if large.dilation != (1, 1) or small.dilation != (1, 1) or large.sources is not None:
        return None
    sizes = tuple(large.weight.shape[2:]), tuple(small.weight.shape[2:])
    before = tuple(large.padding[axis][0] - small.padding[axis][0] for axis in (0, 1))
    if any(skip < 0 or skip + few > many for skip, many, few in zip(before, *sizes, strict=True)):
        return None
    weight = large.weight.double().clone()
    (top, left), (height, width) = before, sizes[1]
    weight[:, :, top : top + height, left : left + width] += small.weight.double()
    return replace(large, weight=weight, bias=_sum(large.bias, small.bias))


def _as_convolution(affine: Affine, like: Convolution) -> Convolution | None:
    """A scale by channel as a 1x1 convolution with the groups of another."""
    channels = affine.scale.numel()
    outs, each = like.weight.shape[:2]
    if like.stride != (1, 1) or outs != channels or each * like.groups != channels:
        return None
    weight = torch.zeros(channels, each, 1, 1, dtype=torch.float64)
    index = torch.arange(channels)
    weight[index, index % each, 0, 0] = affine.scale.double()
    none = ((0, 0), (0, 0))
    return Convolution(weight, affine.shift, (1, 1), none, (1, 1), like.groups)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return first if second is None else second
    return first.double() + second.double()
