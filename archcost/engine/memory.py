"""Memory: which tensors share a buffer, and where in one arena each buffer lies while it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from archcost.engine.forms import Form, Forms, floats
from archcost.engine.graph import Graph, Node, Value
from archcost.engine.operators import Channels, Reshape

__all__ = ["ALIGNMENT", "Buffer", "Held", "arena", "held"]

ALIGNMENT = 64
"""Floats: buffers begin at whole cache lines, so far apart that prefetched pairs of lines do not overlap."""


@dataclass(eq=False)
class Buffer:
    """A block of memory that one tensor, or several that share it, live in."""

    floats: int
    first: int = -1
    """The node that writes to it first; -1 before all."""
    last: int = -1
    """The node that reads it last."""
    input: int | None = None
    """The model's input that it is; None for what the engine allocates."""
    output: int | None = None
    """The model's output that it is."""
    constant: Tensor | None = None
    """The constant that it holds from the beginning."""


@dataclass(frozen=True)
class Held:
    """Where a tensor lies: a buffer, an offset in floats, and for images the stride of the batch."""

    buffer: Buffer
    offset: int
    batch_stride: int


@dataclass
class _Plan:
    graph: Graph
    forms: Forms
    lanes: int
    makers: Mapping[Value, Node]
    places: dict[Value, Held] = field(default_factory=dict)

    def own(self, value: Value) -> Held:
        size = floats(value, self.forms[value], self.lanes)
        return Held(Buffer(size), 0, size // max(1, value.shape[0]) if value.shape else size)

    def pixels(self, value: Value) -> int:
        """Floats of one block of channels of one image."""
        return prod(value.shape[2:]) * self.lanes


def held(graph: Graph, forms: Forms, lanes: int) -> dict[Value, Held]:
    """A place for every tensor; views and concatenations of whole blocks share memory where they can."""
    plan = _Plan(graph, forms, lanes, {v: node for node in graph.nodes for v in node.outputs})
    joined = [node for node in graph.nodes if _blocked(plan, node) and len(node.inputs) > 1]
    for node in sorted(joined, key=lambda node: -node.output.shape[1]):
        _concatenate(plan, node)
    for number, value in enumerate(graph.inputs):
        plan.places[value] = plan.own(value)
        plan.places[value].buffer.input = number
    for value in (value for node in graph.nodes for value in node.inputs if value.constant is not None):
        plan.places[value] = plan.own(value)
        plan.places[value].buffer.constant = value.constant
    for node in graph.nodes:
        if node.output not in plan.places:
            plan.places[node.output] = _view(plan, node) or plan.own(node.output)
        plan.places.update((value, plan.own(value)) for value in node.also)
    _lifetimes(plan)
    _outputs(plan)
    return plan.places


def _blocked(plan: _Plan, node: Node) -> bool:
    return isinstance(node.operator, Channels) and plan.forms[node.output] is Form.BLOCKED


def _concatenate(plan: _Plan, node: Node) -> None:
    """Let the makers of what is concatenated write where it is to be."""
    assert isinstance(node.operator, Channels)
    runs = node.operator.runs()
    if node.output in plan.places or _prefix(plan, node, runs):
        return
    whole = plan.places[node.output] = plan.own(node.output)
    start = 0
    for number, (source, first, count) in enumerate(runs):
        value = node.inputs[source]
        maker = plan.makers.get(value)
        fills = start % plan.lanes == 0 and (count % plan.lanes == 0 or number + 1 == len(runs))
        free = value not in plan.places and maker is not None and not _blocked(plan, maker)
        once = sum(source == other for other, _, _ in runs) == 1
        if (
            fills
            and free
            and once
            and (first, count) == (0, value.shape[1])
            and value not in plan.graph.inputs
        ):
            offset = start // plan.lanes * plan.pixels(value)
            plan.places[value] = Held(whole.buffer, offset, whole.batch_stride)
        start += count


def _prefix(plan: _Plan, node: Node, runs: Sequence[tuple[int, int, int]]) -> bool:
    """All that is concatenated lies side by side already, in a larger concatenation."""
    start, base = 0, None
    for source, first, count in runs:
        place = plan.places.get(node.inputs[source])
        if place is None or first % plan.lanes or start % plan.lanes:
            return False
        begin = place.offset + (first - start) // plan.lanes * plan.pixels(node.output)
        at = (place.buffer, begin, place.batch_stride)
        if base is not None and at != base:
            return False
        base, start = at, start + count
    assert base is not None
    plan.places[node.output] = Held(*base)
    return True


def _view(plan: _Plan, node: Node) -> Held | None:
    """The place of a tensor that shares its input's memory."""
    form = plan.forms[node.output]
    if isinstance(node.operator, Reshape) and form is Form.PLAIN:
        place = plan.places.get(node.inputs[0])
        if place is None:
            return None
        return Held(place.buffer, place.offset, prod(node.output.shape[1:]))
    if _blocked(plan, node) and _prefix(plan, node, node.operator.runs()):  # type: ignore[attr-defined]
        return plan.places[node.output]
    return None


def _lifetimes(plan: _Plan) -> None:
    for index, node in enumerate(plan.graph.nodes):
        for value in node.outputs:
            buffer = plan.places[value].buffer
            if buffer.first < 0 and buffer.input is None:
                buffer.first = index
            buffer.last = max(buffer.last, index)
        for value in node.inputs:
            if value in plan.places:
                plan.places[value].buffer.last = index


def _outputs(plan: _Plan) -> None:
    """Outputs are written where the caller gets them, if each is a whole buffer of its own."""
    for number, value in enumerate(plan.graph.outputs):
        place = plan.places.get(value)
        if value.constant is not None or place is None:
            continue
        if place.buffer.input is not None or place.buffer.output is not None:
            continue
        if place.offset == 0 and place.buffer.floats == prod(value.shape):
            place.buffer.output = number
        else:
            place.buffer.last = len(plan.graph.nodes)


def arena(buffers: Sequence[Buffer]) -> tuple[dict[Buffer, int], int]:
    """An offset for each buffer, and the floats of them all; those that live at once do not overlap.

    Greedy by size (Pisarchyk and Lee, 2020, arXiv:2001.03288): the largest first, each at the lowest offset
    that is free during its life.
    """
    placed: dict[Buffer, int] = {}
    total = 0
    for buffer in sorted(buffers, key=lambda one: -one.floats):
        size = -(-buffer.floats // ALIGNMENT) * ALIGNMENT
        others = sorted(
            (offset, offset + -(-other.floats // ALIGNMENT) * ALIGNMENT)
            for other, offset in placed.items()
            if other.first <= buffer.last and buffer.first <= other.last
        )
        at = 0
        for begin, end in others:
            if at + size <= begin:
                break
            at = max(at, end)
        placed[buffer] = at
        total = max(total, at + size)
    return placed, total
