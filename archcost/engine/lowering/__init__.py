"""Lowerings: how each operator becomes calls of kernels. Those without one are calls of PyTorch."""

from __future__ import annotations

from dataclasses import replace

from archcost.engine.forms import Form, in_forms
from archcost.engine.graph import Graph
from archcost.engine.lowering import (  # noqa: F401
    convolutions,
    copies,
    elementwise,
    layouts,
    products,
    reductions,
)
from archcost.engine.lowering.builder import Builder, TorchStep
from archcost.engine.lowering.registry import LOWERINGS, wanted
from archcost.engine.memory import held
from archcost.engine.passes.picked import absorb_picks
from archcost.engine.weights import rounded
from archcost.kernels.tensors import loaded

__all__ = ["lowered"]


def lowered(graph: Graph, isa: str | None = None) -> Builder:
    """The steps of a graph, with conversions between layouts, and the places of all tensors."""
    lanes = loaded(isa).archcost_lanes()
    rounded(nodes := list(graph.nodes))
    graph = replace(graph, nodes=tuple(nodes))
    graph, forms = in_forms(absorb_picks(graph, lanes), wanted)
    builder = Builder(graph, forms, held(graph, forms, lanes), lanes, isa)
    for node in graph.nodes:
        real = all(value.real for value in (*node.inputs, node.output) if value.constant is None)
        entry = LOWERINGS.get(type(node.operator)) if real else None
        given = [forms.get(value, Form.PLAIN) for value in node.inputs]
        if entry is not None and entry[0](node, given) is not None:
            entry[1](builder, node)
        else:
            builder.steps.append(TorchStep(node))
        builder.ends.append(len(builder.steps))
    return builder
