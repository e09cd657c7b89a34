"""Residual additions done by the convolution or linear layer that makes one of the addends."""

from __future__ import annotations

from dataclasses import replace

from archcost.engine.activation import IDENTITY
from archcost.engine.graph import Edits, Graph, Node, modules_of, swept
from archcost.engine.operators import Convolution, Elementwise, Linear

__all__ = ["fuse_additions"]


def fuse_additions(graph: Graph) -> Graph:
    """Fuse additions of tensors of one shape into the last layer that makes one of them."""
    return swept(graph, _changed)


def _changed(edits: Edits, node: Node) -> bool:
    operator = node.operator
    if not isinstance(operator, Elementwise) or operator.kind != "add":
        return False
    a, b = node.inputs
    if a.shape != b.shape or a is b:
        return False
    layers = [
        (edits.position(maker), maker, addend)
        for made, addend in ((a, b), (b, a))
        if (maker := edits.maker(made)) is not None and _can_add(edits, maker, node)
    ]
    if not layers:
        return False
    _, maker, addend = max(layers, key=lambda one: one[0])
    layer = maker.operator
    assert isinstance(layer, (Convolution, Linear))
    added = replace(layer, adds=True, activation=operator.activation)
    modules = modules_of(maker, node)
    edits.replace([maker, node], [Node(added, (*maker.inputs, addend), node.output, modules)])
    return True


def _can_add(edits: Edits, maker: Node, node: Node) -> bool:
    layer = maker.operator
    if not isinstance(layer, (Convolution, Linear)) or layer.adds or layer.activation != IDENTITY:
        return False
    if isinstance(layer, Convolution) and layer.gated:
        return False
    return edits.only_user(maker.output) is node
