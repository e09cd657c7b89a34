"""A normalisation and activation in front of a convolution, done as its input is loaded."""

from __future__ import annotations

from dataclasses import replace

from archcost.engine.graph import Edits, Graph, Node, modules_of, swept
from archcost.engine.operators import Affine, Convolution

__all__ = ["fuse_before"]


def fuse_before(graph: Graph) -> Graph:
    """Fuse scale, shift and clamp into the dense convolution that alone reads them, as in DenseNet."""
    return swept(graph, _changed)


def _changed(edits: Edits, node: Node) -> bool:
    layer = node.operator
    if not isinstance(layer, Convolution) or layer.groups != 1 or layer.before is not None or layer.gated:
        return False
    maker = edits.maker(node.inputs[0])
    if maker is None or not isinstance(maker.operator, Affine):
        return False
    if maker.operator.activation.kind not in ("identity", "clamp"):
        return False
    if edits.only_user(maker.output) is not node or node.inputs.count(maker.output) > 1:
        return False
    modules = modules_of(maker, node)
    operator = replace(layer, before=maker.operator)
    inputs = (*maker.inputs, *node.inputs[1:])
    edits.replace([maker, node], [Node(operator, inputs, node.output, modules)])
    return True
