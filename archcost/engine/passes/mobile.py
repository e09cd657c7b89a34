"""Inverted residuals as one operator: what is between its layers never leaves the second-level cache."""

from __future__ import annotations

from dataclasses import replace

from archcost.engine.graph import Edits, Graph, Node, Value, modules_of, swept
from archcost.engine.operators import Convolution, InvertedResidual, SqueezeExcite

__all__ = ["fuse_inverted_residuals"]

# Square windows that the kernel knows.
_TAPS = (3, 5, 7)


def fuse_inverted_residuals(graph: Graph) -> Graph:
    """Fuse expansion, depthwise convolution and projection, or the first two and the sums for a gate."""
    return swept(graph, lambda edits, node: _projected(edits, node) or _squeezed(edits, node))


def _projected(edits: Edits, node: Node) -> bool:
    project = node.operator
    if not _plain_pointwise(project) or node.inputs[0] in node.inputs[1:]:
        return False
    assert isinstance(project, Convolution)
    front = _depthwise(edits, node.inputs[0])
    if front is None or edits.only_user(node.inputs[0]) is not node:
        return False
    nodes, expand, depthwise, x = front
    if expand is None:
        return False
    operator = InvertedResidual(expand, depthwise, project)
    made = Node(operator, (x, *node.inputs[1:]), node.output, modules_of(*nodes, node))
    edits.replace([*nodes, node], [made])
    return True


def _squeezed(edits: Edits, node: Node) -> bool:
    """The depthwise convolution sums what it writes: a gate needs no second pass over it."""
    gate = node.operator
    if not isinstance(gate, SqueezeExcite) or gate.pixels is not None:
        return False
    images = node.inputs[0]
    front = _depthwise(edits, images)
    if front is None:
        return False
    nodes, expand, depthwise, x = front
    sums = Value((*images.shape[:2], 1, 1))
    made = Node(InvertedResidual(expand, depthwise, None), (x,), images, modules_of(*nodes), (sums,))
    counted = replace(gate, pixels=images.shape[2] * images.shape[3])
    edits.replace([node], [replace(node, operator=counted, inputs=(sums,))])
    edits.replace(nodes, [made])
    return True


def _depthwise(
    edits: Edits, value: Value
) -> tuple[list[Node], Convolution | None, Convolution, Value] | None:
    """The depthwise convolution that makes a value, and the expansion in front that it alone reads."""
    node = edits.maker(value)
    if node is None or not isinstance(layer := node.operator, Convolution) or not layer.depthwise:
        return None
    (height, width), (rows, columns) = layer.weight.shape[2:], layer.stride
    if height != width or height not in _TAPS or rows != columns or rows > 2 or layer.dilation != (1, 1):
        return None
    if layer.adds or min(layer.padding[0][0], layer.padding[1][0]) < 0:
        return None
    (x,) = node.inputs
    front = edits.maker(x)
    if front is None or edits.only_user(x) is not node or not _plain_pointwise(front.operator):
        return [node], None, layer, x
    expand = front.operator
    assert isinstance(expand, Convolution)
    if expand.adds:
        return [node], None, layer, x
    return [front, node], expand, layer, front.inputs[0]


def _plain_pointwise(layer: object) -> bool:
    if not isinstance(layer, Convolution) or not layer.pointwise or layer.stride != (1, 1):
        return False
    return layer.before is None and layer.sources is None and not layer.gated
