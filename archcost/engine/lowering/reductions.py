"""Pools, means, squeeze-and-excitation and normalisations as steps."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from archcost.engine.activation import IDENTITY
from archcost.engine.forms import Form
from archcost.engine.graph import Node, Value
from archcost.engine.lowering.builder import Builder
from archcost.engine.lowering.convolutions import activation_arguments
from archcost.engine.lowering.registry import lowers
from archcost.engine.operators import LayerNorm, Mean, Pool, Softmax, SqueezeExcite
from archcost.kernels.steps import (
    GlobalPoolArguments,
    LayerNormArguments,
    Map,
    PoolArguments,
    SoftmaxArguments,
    SqueezeArguments,
    WindowArguments,
)

__all__: list[str] = []


def _pool_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    operator = node.operator
    assert isinstance(operator, Pool)
    before = tuple((first, first) for first, _ in operator.padding)
    counted = operator.counts_padding
    if counted is not None and counted != before:
        return None
    return [Form.BLOCKED], Form.BLOCKED


@lowers(Pool, _pool_forms)
def pool(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Pool)
    (x,) = node.inputs
    arguments = PoolArguments(
        builder.images(x),
        builder.images(node.output),
        WindowArguments(*operator.size, *operator.stride, *operator.dilation),
        operator.padding[0][0],
        operator.padding[1][0],
        int(operator.counts_padding is not None),
        0,
    )
    kernel = "max_pool" if operator.kind == "max" else "avg_pool"
    builder.step(node, kernel, arguments, (builder.held[x], builder.held[node.output]))


def _map(builder: Builder, value: Value) -> Map:
    batch, channels, height, width = value.shape
    lanes, pixels = builder.lanes, height * width
    return Map(batch, channels, pixels, builder.held[value].batch_stride, pixels * lanes, lanes)


def _mean_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    operator = node.operator
    assert isinstance(operator, Mean)
    if operator.dims != (2, 3) or len(node.inputs[0].shape) != 4:
        return None
    return [Form.BLOCKED], Form.BLOCKED if operator.keepdim else Form.PLAIN


@lowers(Mean, _mean_forms)
def mean(builder: Builder, node: Node) -> None:
    (x,) = node.inputs
    arguments = GlobalPoolArguments(
        _map(builder, x),
        activation_arguments(IDENTITY),
        builder.held[node.output].batch_stride,
        1 / prod(x.shape[2:]),
    )
    builder.step(node, "global_pool", arguments, (builder.held[x], builder.held[node.output]))


@lowers(SqueezeExcite, lambda node, given: ([Form.BLOCKED], Form.BLOCKED))
def squeeze(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, SqueezeExcite)
    (x,) = node.inputs
    pixels = operator.pixels or prod(x.shape[2:])
    hidden, channels = operator.reduce.weight.shape

    def pack(address: int) -> None:
        tensors = []
        for layer in (operator.reduce, operator.expand):
            bias = torch.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
            tensors += [one.detach().to(torch.float32).contiguous() for one in (layer.weight, bias)]
        places = [one.data_ptr() for one in tensors]
        builder.library.archcost_squeeze_pack(channels, hidden, *places, address)

    count = builder.library.archcost_squeeze_packed_floats(channels, hidden)
    arguments = SqueezeArguments(
        _map(builder, x),
        activation_arguments(operator.reduce.activation),
        activation_arguments(operator.expand.activation),
        hidden,
        builder.held[node.output].batch_stride,
        1 / pixels,
    )
    places = (builder.held[x], builder.weights(count, pack), builder.held[node.output])
    builder.step(node, "squeeze", arguments, places)


def _norm_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    operator = node.operator
    assert isinstance(operator, LayerNorm)
    if operator.dim == -1:
        return [Form.PLAIN], Form.PLAIN
    return ([Form.BLOCKED], Form.BLOCKED) if len(node.output.shape) == 4 else None


def _rows(builder: Builder, value: Value) -> Map:
    """Rows of numbers that lie together."""
    length = value.shape[-1]
    return Map(1, length, prod(value.shape[:-1]), 0, builder.lanes, length)


@lowers(LayerNorm, _norm_forms)
def layer_norm(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, LayerNorm)
    (x,) = node.inputs
    described = _rows if operator.dim == -1 else _map
    arguments = LayerNormArguments(
        described(builder, x), described(builder, node.output), activation_arguments(IDENTITY), operator.eps
    )
    factors = (
        None if one is None else builder.channel_vector(one) for one in (operator.weight, operator.bias)
    )
    builder.step(node, "layer_norm", arguments, (builder.held[x], *factors, builder.held[node.output]))


def _softmax_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    operator = node.operator
    assert isinstance(operator, Softmax)
    return ([Form.PLAIN], Form.PLAIN) if operator.dim == len(node.output.shape) - 1 else None


@lowers(Softmax, _softmax_forms)
def softmax(builder: Builder, node: Node) -> None:
    (x,) = node.inputs
    length = x.shape[-1]
    arguments = SoftmaxArguments(prod(x.shape[:-1]), length, length, length)
    builder.step(node, "softmax", arguments, (builder.held[x], builder.held[node.output]))
