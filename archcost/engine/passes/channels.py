"""Concatenations, slices and shuffles of channels as one, where they follow each other."""

from __future__ import annotations

from dataclasses import replace

from archcost.engine.graph import Edits, Graph, Node, Value, swept
from archcost.engine.operators import Channels

__all__ = ["merge_channels"]


def merge_channels(graph: Graph) -> Graph:
    """Pick channels where they were made, not from a tensor that they were copied to."""
    return swept(graph, _changed)


def _changed(edits: Edits, node: Node) -> bool:
    if not isinstance(node.operator, Channels):
        return False
    inner = [edits.maker(value) for value in node.inputs]
    if not any(one is not None and isinstance(one.operator, Channels) for one in inner):
        return False
    inputs: dict[Value, int] = {}
    sources = []
    for source, channel in node.operator.sources:
        value, made = node.inputs[source], inner[source]
        if made is not None and isinstance(made.operator, Channels):
            source, channel = made.operator.sources[channel]
            value = made.inputs[source]
        sources.append((inputs.setdefault(value, len(inputs)), channel))
    edits.replace([node], [replace(node, operator=Channels(tuple(sources)), inputs=tuple(inputs))])
    return True
