"""Convolutions as steps: direct and depthwise kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from math import inf

import torch
from torch import Tensor

from archcost.engine.activation import IDENTITY, Activation
from archcost.engine.forms import Form
from archcost.engine.graph import Node, Value
from archcost.engine.lowering.builder import ArenaPlace, Builder, Place, WeightsPlace
from archcost.engine.lowering.registry import lowers
from archcost.engine.memory import Held
from archcost.engine.operators import Convolution, InvertedResidual
from archcost.kernels.loading import Images, Problem
from archcost.kernels.packing import WINOGRAD, WinogradTile, winograd_place
from archcost.kernels.steps import (
    ActivationArguments,
    DepthwiseArguments,
    DirectArguments,
    FftDepthwiseArguments,
    GroupedArguments,
    InvertedResidualArguments,
    TilesArguments,
    WindowArguments,
)

__all__ = ["activation_arguments"]

# Of a plain input: more are converted first.
_FEW_CHANNELS = 4


def activation_arguments(of: Activation) -> ActivationArguments:
    return ActivationArguments(of.number, of.low, of.high)


def _forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    operator = node.operator
    assert isinstance(operator, Convolution)
    if min(min(side) for side in operator.padding) < 0:
        return None
    reads = [Form.BLOCKED] * len(node.inputs)
    few = operator.weight.shape[1] <= _FEW_CHANNELS and operator.groups == 1 and operator.sources is None
    if few and given[0] is Form.PLAIN and operator.before is None and not operator.gated:
        reads[0] = Form.PLAIN
    return reads, Form.BLOCKED


@lowers(Convolution, _forms)
def convolution(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Convolution)
    if operator.tile is not None:
        _tiles(builder, node, operator, operator.tile)
    elif operator.fourier:
        _fourier(builder, node, operator)
    elif operator.depthwise:
        _depthwise(builder, node, operator)
    else:
        (_direct if operator.groups == 1 else _grouped)(builder, node, operator)


def _window(operator: Convolution) -> WindowArguments:
    height, width = operator.weight.shape[2:]
    return WindowArguments(height, width, *operator.stride, *operator.dilation)


def _bias(builder: Builder, operator: Convolution) -> WeightsPlace | None:
    return None if operator.bias is None else builder.channel_vector(operator.bias)


def _float(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()


def _packed(builder: Builder, operator: Convolution, blocked: bool = True) -> WeightsPlace:
    """Weights as the direct kernel reads them."""
    outs, ins = operator.weight.shape[:2]
    numbers = (ctypes.c_int64 * 6)(*operator.weight.shape[2:], *operator.stride, *operator.dilation)

    def pack(address: int) -> None:
        weight = _float(operator.weight)
        builder.library.archcost_direct_pack(numbers, outs, ins, int(blocked), weight.data_ptr(), address)

    return builder.weights(builder.library.archcost_direct_packed_floats(numbers, outs, ins), pack)


def _weights(builder: Builder, kind: str, operator: Convolution, *numbers: object) -> WeightsPlace:
    """Weights as another kernel reads them, which the numbers describe."""

    def pack(address: int) -> None:
        weight = _float(operator.weight)
        getattr(builder.library, f"archcost_{kind}_pack")(*numbers, weight.data_ptr(), address)

    count = getattr(builder.library, f"archcost_{kind}_packed_floats")(*numbers)
    return builder.weights(count, pack)


def _direct(builder: Builder, node: Node, operator: Convolution) -> None:
    x = node.inputs[0]
    blocked = builder.form(x) is Form.BLOCKED
    window = _window(operator)
    packed, bias = _packed(builder, operator, blocked), _bias(builder, operator)
    rest = list(node.inputs[_sources(operator) :])
    addend = rest.pop(0) if operator.adds else None
    gate = rest.pop(0) if operator.gated else None
    before, bounds = operator.before, (-inf, inf)
    scale = shift = None
    if before is not None:
        scale, shift = builder.channel_vector(before.scale), builder.channel_vector(before.shift)
        if before.activation.kind == "clamp":
            bounds = (before.activation.low, before.activation.high)
    for image in range(1 if operator.sources is None else node.output.shape[0]):
        source: Place = builder.held[x]
        offsets = None
        images = [builder.images(x), builder.images(node.output)]
        images.append(Images() if addend is None else builder.images(addend))
        target, added = builder.held[node.output], None if addend is None else builder.held[addend]
        if operator.sources is not None:  # each image has its own table, and is a batch of one
            source, offsets = ArenaPlace(), _table(builder, node, operator.sources, image)
            target = _image(target, image)
            added = None if added is None else _image(added, image)
            for one in images:
                one.batch = 1
            images[0].channels = operator.weight.shape[1]
        arguments = DirectArguments(
            *images,
            window,
            operator.padding[0][0],
            operator.padding[1][0],
            0 if gate is None else builder.held[gate].batch_stride,
            activation_arguments(operator.activation),
            *bounds,
        )
        gates = None if gate is None else builder.held[gate]
        places = (source, packed, bias, target, added, scale, shift, gates, offsets)
        builder.step(node, "direct", arguments, places)


def _sources(operator: Convolution) -> int:
    """How many inputs hold what is convolved."""
    return 1 if operator.sources is None else 1 + max(source for source, _ in operator.sources)


def _image(place: Held, image: int) -> Held:
    return Held(place.buffer, place.offset + image * place.batch_stride, place.batch_stride)


def _table(builder: Builder, node: Node, sources: tuple[tuple[int, int], ...], image: int) -> WeightsPlace:
    """Where each input channel lies in the arena."""

    def make(where: object) -> Tensor:
        assert callable(where)
        return torch.tensor(
            [where(_image(builder.held[value], image)) + offset for value, offset in channels]
        )

    channels = [
        (node.inputs[source], _offset(builder, node.inputs[source], channel)) for source, channel in sources
    ]
    return builder.table(len(channels), make)


def _offset(builder: Builder, value: Value, channel: int) -> int:
    lanes = builder.lanes
    pixels = value.shape[2] * value.shape[3] * lanes
    return channel // lanes * pixels + channel % lanes


_Part = tuple[Images, Images, Place, Place, Place]


def _parts(builder: Builder, node: Node) -> Iterator[_Part]:
    """Descriptions of input and output, and the places of input, addend and output.

    The whole batch, or each image for itself where the addend does not lie as the output does: the kernels
    know one description of both.
    """
    operator = node.operator
    assert isinstance(operator, Convolution)
    source, target = builder.held[node.inputs[0]], builder.held[node.output]
    added = builder.held[node.inputs[1]] if operator.adds else None
    given, written = builder.images(node.inputs[0]), builder.images(node.output)
    if added is None or added.batch_stride == target.batch_stride:
        yield given, written, source, added, target
        return
    given.batch = written.batch = 1
    for image in range(node.output.shape[0]):
        yield given, written, _image(source, image), _image(added, image), _image(target, image)


def _tiles(builder: Builder, node: Node, operator: Convolution, tile: WinogradTile) -> None:
    outs, ins = operator.weight.shape[:2]
    named = (WINOGRAD, winograd_place(tile.outputs, tile.taps), 0)
    packed = _weights(builder, "tiles", operator, *named, outs, ins)
    bias, activation = _bias(builder, operator), activation_arguments(operator.activation)
    for given, written, source, added, target in _parts(builder, node):
        arguments = TilesArguments(*named, _problem(given, written, operator), activation)
        builder.step(node, "tiles", arguments, (source, packed, bias, added, target))


def _problem(given: Images, written: Images, operator: Convolution) -> Problem:
    return Problem(given, written, operator.padding[0][0], operator.padding[1][0], 1, 0, -inf, inf)


def _fourier(builder: Builder, node: Node, operator: Convolution) -> None:
    channels, _, height, width = operator.weight.shape
    named = (height, width, operator.fourier)
    packed = _weights(builder, "depthwise", operator, *named, channels)
    bias, activation = _bias(builder, operator), activation_arguments(operator.activation)
    for given, written, source, added, target in _parts(builder, node):
        arguments = FftDepthwiseArguments(*named, _problem(given, written, operator), activation)
        builder.step(node, "fft_depthwise", arguments, (source, packed, bias, added, target))


def _depthwise(builder: Builder, node: Node, operator: Convolution) -> None:
    channels, window = operator.weight.shape[0], _window(operator)
    numbers = tuple(getattr(window, name) for name, *_ in WindowArguments._fields_)
    packed = _weights(builder, "depthwise_direct", operator, *numbers, channels)
    bias, pads, activation = _behind(builder, operator)
    for given, written, source, added, target in _parts(builder, node):
        arguments = DepthwiseArguments(given, written, window, *pads, activation)
        builder.step(node, "depthwise", arguments, (source, packed, bias, added, target))


def _behind(
    builder: Builder, operator: Convolution
) -> tuple[WeightsPlace | None, tuple[int, int], ActivationArguments]:
    """The bias, what is padded above and at the left, and the activation."""
    pads = operator.padding[0][0], operator.padding[1][0]
    return _bias(builder, operator), pads, activation_arguments(operator.activation)


def _grouped(builder: Builder, node: Node, operator: Convolution) -> None:
    outs, ins, window = *operator.weight.shape[:2], _window(operator)
    packed = _weights(builder, "grouped", operator, ctypes.byref(window), outs, ins)
    bias, pads, activation = _behind(builder, operator)
    for given, written, source, added, target in _parts(builder, node):
        arguments = GroupedArguments(given, written, window, *pads, operator.groups, activation)
        builder.step(node, "grouped", arguments, (source, packed, bias, added, target))


@lowers(InvertedResidual, lambda node, given: ([Form.BLOCKED] * len(node.inputs), Form.BLOCKED))
def inverted_residual(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, InvertedResidual)
    expand, depthwise, project = operator.expand, operator.depthwise, operator.project
    channels, _, taps, _ = depthwise.weight.shape
    addend = node.inputs[1] if project is not None and project.adds else None
    sums = node.also[0] if node.also else None
    arguments = InvertedResidualArguments(
        builder.images(node.inputs[0]),
        builder.images(node.output),
        Images() if addend is None else builder.images(addend),
        channels,
        taps,
        depthwise.stride[0],
        depthwise.padding[0][0],
        depthwise.padding[1][0],
        0 if sums is None else builder.held[sums].batch_stride,
        *(
            activation_arguments(IDENTITY if one is None else one.activation)
            for one in (expand, depthwise, project)
        ),
    )
    layers: list[Place] = []
    for layer in (expand, depthwise, project):
        if layer is depthwise:
            packed = _weights(builder, "inverted_residual", depthwise, taps, channels)
            layers += [packed, _bias(builder, depthwise)]
        else:
            layers += [None, None] if layer is None else [_packed(builder, layer), _bias(builder, layer)]
    others = (builder.held.get(one) if one is not None else None for one in (addend, sums))
    places = (builder.held[node.inputs[0]], *layers, builder.held[node.output], *others)
    builder.step(node, "inverted_residual", arguments, places)
