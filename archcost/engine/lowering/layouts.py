"""Conversions, views, and channels picked from several tensors, as steps."""

from __future__ import annotations

from collections.abc import Sequence

from archcost.engine.forms import Convert, Form
from archcost.engine.graph import Node, Value
from archcost.engine.lowering.builder import Builder
from archcost.engine.lowering.registry import lowers
from archcost.engine.memory import Held
from archcost.engine.operators import Channels, Interpolate, Reshape
from archcost.kernels.steps import (
    MOST_SOURCES,
    ConversionArguments,
    InterpolationArguments,
    gather_arguments,
)

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
    # A block of the output at a time has few enough sources.
    sources, lanes = node.operator.sources, builder.lanes
    begin = 0
    while begin < len(sources):
        end = begin + lanes
        used = dict.fromkeys(source for source, _ in sources[begin:end])
        while end < len(sources):
            more = dict.fromkeys(source for source, _ in sources[end : end + lanes])
            if len({**used, **more}) > MOST_SOURCES:
                break
            used |= more
            end += lanes
        _gather(builder, node, begin, min(end, len(sources)), list(used))
        begin = end


def _gather(builder: Builder, node: Node, begin: int, end: int, used: Sequence[int]) -> None:
    """Channels ``begin`` to ``end`` of the output, the first one at the beginning of a block."""
    assert isinstance(node.operator, Channels)
    batch, _, height, width = node.output.shape
    arguments = gather_arguments(end - begin)()
    arguments.batch, arguments.channels = batch, end - begin
    arguments.pixels, arguments.sources = height * width, len(used)
    block = arguments.pixels * builder.lanes
    target = builder.held[node.output]
    arguments.batch_stride, arguments.block_stride = target.batch_stride, block
    places = []
    for index, source in enumerate(used):
        place = builder.held[node.inputs[source]]
        arguments.source_batch_stride[index], arguments.source_block_stride[index] = place.batch_stride, block
        places.append(place)
    for index, (source, channel) in enumerate(node.operator.sources[begin:end]):
        arguments.table[index] = used.index(source) << 32 | channel
    there = Held(target.buffer, target.offset + begin // builder.lanes * block, target.batch_stride)
    builder.step(node, "gather", arguments, [*places, there])


def _in_place(builder: Builder, node: Node, value: Value, first: int, start: int) -> bool:
    here, there = builder.held[node.output], builder.held[value]
    if here.buffer is not there.buffer or (first - start) % builder.lanes:
        return False
    pixels = value.shape[2] * value.shape[3] * builder.lanes
    return here.offset == there.offset + (first - start) // builder.lanes * pixels


@lowers(Interpolate, lambda node, given: ([Form.BLOCKED], Form.BLOCKED))
def interpolate(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Interpolate)
    (x,) = node.inputs
    aligned = operator.mode == "bilinear" and operator.align_corners
    mode = 0 if operator.mode == "nearest" else 3 if aligned else 2
    scales = []
    for size, made, factor in zip(x.shape[2:], operator.size, operator.scales, strict=True):
        if aligned:
            scales.append((size - 1) / (made - 1) if made > 1 else 0.0)
        else:
            scales.append(1 / factor if factor else size / made)
    arguments = InterpolationArguments(builder.images(x), builder.images(node.output), mode, *scales)
    builder.step(node, "interpolate", arguments, (builder.held[x], builder.held[node.output]))
