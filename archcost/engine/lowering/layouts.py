"""Conversions, views, and channels picked from several tensors, as steps."""

from __future__ import annotations

from collections.abc import Sequence

from archcost.engine.forms import Convert, Form
from archcost.engine.graph import Node, Value
from archcost.engine.lowering.builder import Builder
from archcost.engine.lowering.registry import lowers
from archcost.engine.operators import Channels, Reshape
from archcost.kernels.steps import MOST_SOURCES, ConversionArguments, gather_arguments

__all__: list[str] = []


@lowers(Convert, lambda node, given: (given, given[0]))
def convert(builder: Builder, node: Node) -> None:
    (x,) = node.inputs
    arguments = ConversionArguments(builder.images(x), builder.images(node.output))
    builder.step(node, "convert", arguments, (builder.held[x], builder.held[node.output]))


@lowers(Reshape, lambda node, given: ([Form.PLAIN], Form.PLAIN))
def reshape(builder: Builder, node: Node) -> None:
    """Shares its input's memory: nothing to do."""


def _channel_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    if len(node.inputs) > MOST_SOURCES:
        return None
    return [Form.BLOCKED] * len(node.inputs), Form.BLOCKED


@lowers(Channels, _channel_forms)
def channels(builder: Builder, node: Node) -> None:
    """What is not in its place already is copied there."""
    assert isinstance(node.operator, Channels)
    runs, start = [], 0
    for source, first, count in node.operator.runs():
        if not _in_place(builder, node, node.inputs[source], first, start):
            runs.append((source, first, count, start))
        start += count
    if not runs:
        return
    used = list(node.inputs)
    arguments = gather_arguments(node.output.shape[1])()
    arguments.batch, arguments.channels = node.output.shape[:2]
    arguments.pixels, arguments.sources = node.output.shape[2] * node.output.shape[3], len(used)
    block = arguments.pixels * builder.lanes
    arguments.batch_stride, arguments.block_stride = builder.held[node.output].batch_stride, block
    for index, value in enumerate(used):
        arguments.source_batch_stride[index] = builder.held[value].batch_stride
        arguments.source_block_stride[index] = block
    for index, (source, channel) in enumerate(node.operator.sources):
        arguments.table[index] = source << 32 | channel
    places = [builder.held[value] for value in used] + [builder.held[node.output]]
    builder.step(node, "gather", arguments, places)


def _in_place(builder: Builder, node: Node, value: Value, first: int, start: int) -> bool:
    here, there = builder.held[node.output], builder.held[value]
    if here.buffer is not there.buffer or (first - start) % builder.lanes:
        return False
    pixels = value.shape[2] * value.shape[3] * builder.lanes
    return here.offset == there.offset + (first - start) // builder.lanes * pixels

