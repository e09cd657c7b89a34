"""The registry of lowerings: how each operator becomes steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from archcost.engine.forms import Form

if TYPE_CHECKING:
    from archcost.engine.graph import Node
    from archcost.engine.lowering.builder import Builder

__all__ = ["LOWERINGS", "FormsOf", "Lowered", "lowers"]

FormsOf = Callable[["Node", Sequence[Form]], "tuple[Sequence[Form], Form] | None"]
"""The forms that the kernel reads and writes; None where it cannot do the node."""
Lowered = Callable[["Builder", "Node"], None]
"""Adds the node's steps."""

LOWERINGS: dict[type, tuple[FormsOf, Lowered]] = {}


def lowers(operator: type, forms: FormsOf) -> Callable[[Lowered], Lowered]:
    """Register how nodes of an operator become steps."""

    def register(lowered: Lowered) -> Lowered:
        LOWERINGS[operator] = (forms, lowered)
        return lowered

    return register


def wanted(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form]:
    """The forms of a node's inputs and output; plain ones where PyTorch does it."""
    real = all(value.real for value in (*node.inputs, node.output) if value.constant is None)
    if real and (entry := LOWERINGS.get(type(node.operator))) and (found := entry[0](node, given)):
        return found
    return [Form.PLAIN] * len(node.inputs), Form.PLAIN
