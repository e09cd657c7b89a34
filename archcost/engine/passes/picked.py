"""1x1 convolutions that read their input channels one by one, wherever they lie: shuffles cost nothing."""

from __future__ import annotations

from dataclasses import replace

from archcost.engine.graph import Edits, Graph, Node, Value, swept
from archcost.engine.operators import Channels, Convolution

__all__ = ["absorb_picks"]


def absorb_picks(graph: Graph, lanes: int) -> Graph:
    """Shuffles, slices and concatenations that whole blocks of channels cannot express are read in place.

    Args:
        graph: the graph.
        lanes: channels in a block.
    """
    return swept(graph, lambda edits, node: _absorbed(edits, node, lanes))


def _absorbed(edits: Edits, node: Node, lanes: int) -> bool:
    layer = node.operator
    if not isinstance(layer, Convolution) or not layer.pointwise or layer.stride != (1, 1):
        return False
    if layer.sources is not None or layer.before is not None or layer.gated:
        return False
    picks = edits.maker(node.inputs[0])
    if picks is None or not isinstance(picks.operator, Channels) or _whole_blocks(picks.operator, lanes):
        return False
    used = dict.fromkeys(source for source, _ in picks.operator.sources)
    if len(used) != len(picks.inputs) or any(_is_input(edits, value) for value in picks.inputs):
        return False
    operator = replace(layer, sources=picks.operator.sources)
    edits.replace([node], [replace(node, operator=operator, inputs=(*picks.inputs, *node.inputs[1:]))])
    return True


def _is_input(edits: Edits, value: Value) -> bool:
    return edits.maker(value) is None


def _whole_blocks(picks: Channels, lanes: int) -> bool:
    start, aligned = 0, True
    for _, first, count in picks.runs():
        aligned = aligned and first % lanes == 0 and start % lanes == 0
        start += count
    return aligned
