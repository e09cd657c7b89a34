"""Squeeze-and-excitation as one operator, its gate multiplied into the weights of the layer behind."""

from __future__ import annotations

from dataclasses import replace

from archcost.engine.activation import IDENTITY
from archcost.engine.graph import Edits, Graph, Node, modules_of, swept
from archcost.engine.operators import Convolution, Elementwise, Linear, Mean, SqueezeExcite

__all__ = ["fuse_gates"]


def fuse_gates(graph: Graph) -> Graph:
    """Fuse the layers that compute a gate, and the product with it into the 1x1 convolution behind."""
    return swept(graph, lambda edits, node: _squeezed(edits, node) or _gated(edits, node))


def _squeezed(edits: Edits, node: Node) -> bool:
    expand = _linear(node)
    reducer = edits.maker(node.inputs[0])
    if expand is None or reducer is None or edits.only_user(node.inputs[0]) is not node:
        return False
    reduce, mean = _linear(reducer), edits.maker(reducer.inputs[0])
    if reduce is None or mean is None or mean.operator != Mean((2, 3), True):
        return False
    if edits.only_user(mean.output) is not reducer or mean.inputs[0].shape[:2] != node.output.shape[:2]:
        return False  # selective kernels have a gate for each branch
    modules = modules_of(mean, reducer, node)
    made = Node(SqueezeExcite(reduce, expand), mean.inputs, node.output, modules)
    edits.replace([mean, reducer, node], [made])
    return True


def _linear(node: Node) -> Linear | None:
    """A 1x1 convolution of one pixel."""
    layer = node.operator
    if not isinstance(layer, Convolution) or not layer.pointwise or layer.adds or layer.gated:
        return None
    if layer.before is not None or node.output.shape[2:] != (1, 1) or node.inputs[0].shape[2:] != (1, 1):
        return None
    return Linear(layer.weight[:, :, 0, 0], layer.bias, layer.activation)


def _gated(edits: Edits, node: Node) -> bool:
    layer = node.operator
    if not isinstance(layer, Convolution) or not layer.pointwise or layer.gated or layer.before is not None:
        return False
    product = edits.maker(node.inputs[0])
    if product is None or not isinstance(product.operator, Elementwise) or product.operator.kind != "mul":
        return False
    if product.operator.activation != IDENTITY or edits.only_user(product.output) is not node:
        return False
    for x, gate in (product.inputs, product.inputs[::-1]):
        if x.shape == product.output.shape and gate.shape == (*x.shape[:2], 1, 1) and x.shape[2:] != (1, 1):
            modules = modules_of(product, node)
            made = Node(replace(layer, gated=True), (x, *node.inputs[1:], gate), node.output, modules)
            edits.replace([product, node], [made])
            return True
    return False
