"""Activations done by the layer in front, while its outputs are in a register."""

from __future__ import annotations

from dataclasses import replace

from archcost.engine.activation import IDENTITY, Activation
from archcost.engine.graph import Edits, Graph, Node, modules_of, swept
from archcost.engine.operators import Activate, Affine, Convolution, Elementwise, Linear

__all__ = ["fuse_activations"]

_GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}


def fuse_activations(graph: Graph) -> Graph:
    """Fuse each activation into the convolution, linear layer or arithmetic whose result it alone reads."""
    return swept(graph, lambda edits, node: _gated(edits, node) or _fused(edits, node))


def _gated(edits: Edits, node: Node) -> bool:
    """x sigmoid(x) is SiLU, x hardsigmoid(x) hardswish."""
    if node.operator != Elementwise("mul"):
        return False
    for x, gate in (node.inputs, node.inputs[::-1]):
        maker = edits.maker(gate)
        if maker is None or not isinstance(maker.operator, Activate) or maker.inputs != (x,):
            continue
        if kind := _GATES.get(maker.operator.activation.kind):
            alone = [maker] if edits.only_user(gate) is node else []
            fused = replace(node, operator=Activate(Activation(kind)), inputs=(x,))
            edits.replace([*alone, node], [fused])
            return True
    return False


def _fused(edits: Edits, node: Node) -> bool:
    if not isinstance(node.operator, Activate):
        return False
    maker = edits.maker(node.inputs[0])
    if maker is None or edits.only_user(node.inputs[0]) is not node:
        return False
    if not isinstance(maker.operator, (Affine, Convolution, Elementwise, Linear)):
        return False
    if maker.operator.activation != IDENTITY:
        return False
    operator = replace(maker.operator, activation=node.operator.activation)
    modules = modules_of(maker, node)
    edits.replace([maker, node], [Node(operator, maker.inputs, node.output, modules)])
    return True
