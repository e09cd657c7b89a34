"""Scales and shifts by channel: found in arithmetic with constants, folded into the convolution in front."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from archcost.engine.activation import IDENTITY
from archcost.engine.graph import Edits, Graph, Node, Value, modules_of, swept
from archcost.engine.operators import Affine, Convolution, Elementwise

__all__ = ["fold_affine"]


def fold_affine(graph: Graph) -> Graph:
    """Batch normalisations and constant scales become part of the convolution in front."""
    return swept(
        graph, lambda edits, node: _nothing(edits, node) or _found(edits, node) or _folded(edits, node)
    )


def _nothing(edits: Edits, node: Node) -> bool:
    """Adding 0, as a sum that begins with it does, and multiplying by 1."""
    operator = node.operator
    if not isinstance(operator, Elementwise) or operator.activation != IDENTITY:
        return False
    neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1}.get(operator.kind)
    a, b = node.inputs
    pairs = [(a, b)] if operator.kind in ("sub", "div") else [(a, b), (b, a)]
    for x, other in pairs:
        if other.constant is None or x.constant is not None or x.shape != node.output.shape:
            continue
        if neutral is not None and bool((other.constant == neutral).all()):
            return edits.bypass(node, x)
    return False


def _found(edits: Edits, node: Node) -> bool:
    """Arithmetic of images with a constant for each channel is an `Affine`."""
    operator = node.operator
    if not isinstance(operator, Elementwise) or operator.kind not in ("add", "sub", "mul", "div"):
        return False
    a, b = node.inputs
    swapped = a.constant is not None
    x, other = (b, a) if swapped else (a, b)
    if other.constant is None or x.constant is not None or len(x.shape) != 4 or x.shape != node.output.shape:
        return False
    values = _by_channel(other, x.shape)
    maker = edits.maker(x)
    if other.constant.numel() == 1 and (
        maker is None or not isinstance(maker.operator, (Affine, Convolution))
    ):
        return False
    if values is None or (swapped and operator.kind == "div"):
        return False
    one, zero = torch.ones_like(values), torch.zeros_like(values)
    scale, shift = {
        "add": (one, values),
        "sub": (-one, values) if swapped else (one, -values),
        "mul": (values, zero),
        "div": (1 / values, zero),
    }[operator.kind]
    affine = Affine(scale, shift, operator.activation)
    edits.replace([node], [replace(node, operator=affine, inputs=(x,))])
    return True


def _by_channel(value: Value, shape: tuple[int, ...]) -> Tensor | None:
    """The constant as one number for each channel; None where it differs within one."""
    assert value.constant is not None
    sizes = (1,) * (4 - len(value.shape)) + value.shape
    if len(sizes) != 4 or sizes[0] != 1 or sizes[2:] != (1, 1) or sizes[1] not in (1, shape[1]):
        return None
    return value.constant.double().reshape(-1).expand(shape[1])


def _folded(edits: Edits, node: Node) -> bool:
    affine = node.operator
    if not isinstance(affine, Affine):
        return False
    maker = edits.maker(node.inputs[0])
    if maker is None or edits.only_user(node.inputs[0]) is not node:
        return False
    operator = maker.operator
    modules = modules_of(maker, node)
    if isinstance(operator, Affine) and operator.activation == IDENTITY:
        scale, shift = affine.scale * operator.scale, affine.scale * operator.shift + affine.shift
        made = Node(replace(affine, scale=scale, shift=shift), maker.inputs, node.output, modules)
        edits.replace([maker, node], [made])
        return True
    if not isinstance(operator, Convolution) or operator.activation != IDENTITY or operator.adds:
        return False
    weight = operator.weight.double() * affine.scale.reshape(-1, *(1,) * (operator.weight.dim() - 1))
    bias = affine.shift if operator.bias is None else operator.bias.double() * affine.scale + affine.shift
    folded = replace(operator, weight=weight, bias=bias, activation=affine.activation)
    edits.replace([maker, node], [Node(folded, maker.inputs, node.output, modules)])
    return True
