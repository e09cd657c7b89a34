"""Forms: how each tensor of a graph lies in memory, and the conversions in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import prod

from torch import Tensor

from archcost.engine.graph import Graph, Node, Value

__all__ = ["Convert", "Form", "Forms", "Wanted", "floats", "in_forms"]


class Form(Enum):
    """A layout of float32 tensors."""

    PLAIN = "plain"
    """Contiguous in the order of its dimensions; images are NCHW."""
    BLOCKED = "blocked"
    """(batch, block, height, width, lanes): some channels of a pixel side by side, padded to whole blocks."""


Forms = dict[Value, Form]
Wanted = Callable[[Node, Sequence[Form]], tuple[Sequence[Form], Form]]
"""For a node and the forms of its inputs: the forms that it reads, and the one that it writes."""


@dataclass(frozen=True)
class Convert:
    """The same tensor in another form."""

    to: Form

    def reference(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x


def floats(value: Value, form: Form, lanes: int) -> int:
    """How many floats a tensor takes."""
    if form is Form.PLAIN:
        return prod(value.shape)
    batch, channels, height, width = value.shape
    return batch * -(-channels // lanes) * height * width * lanes


def in_forms(graph: Graph, wanted: Wanted) -> tuple[Graph, Forms]:
    """The graph with a conversion wherever a tensor is read in a form that it is not in.

    Inputs, constants and outputs of the model are plain; a tensor is converted once for all that read it.
    """
    forms: Forms = dict.fromkeys(graph.inputs, Form.PLAIN)
    nodes: list[Node] = []
    converted: dict[tuple[Value, Form], Value] = {}

    def as_form(value: Value, form: Form) -> Value:
        if forms[value] is form:
            return value
        if (value, form) not in converted:
            made = Value(value.shape)
            forms[made] = form
            nodes.append(Node(Convert(form), (value,), made))
            converted[value, form] = made
        return converted[value, form]

    for node in graph.nodes:
        forms.update((value, Form.PLAIN) for value in node.inputs if value.constant is not None)
        given = [forms[value] for value in node.inputs]
        reads, writes = wanted(node, given)
        inputs = tuple(as_form(value, form) for value, form in zip(node.inputs, reads, strict=True))
        nodes.append(replace(node, inputs=inputs))
        forms.update(dict.fromkeys(node.outputs, writes))
    outputs = tuple(
        value if value.constant is not None else as_form(value, Form.PLAIN) for value in graph.outputs
    )
    return replace(graph, nodes=tuple(nodes), outputs=outputs), forms
