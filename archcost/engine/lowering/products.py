"""Linear layers, matrix products and attention as steps."""

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
from archcost.engine.operators import Attention, Linear, MatMul
from archcost.kernels.steps import AttentionArguments, Heads, LinearArguments, Mask, MatmulArguments

__all__: list[str] = []


def _plain(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form]:
    return [Form.PLAIN] * len(node.inputs), Form.PLAIN


@lowers(Linear, _plain)
def linear(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Linear)
    outs, ins = operator.weight.shape

    def pack(address: int) -> None:
        weight = operator.weight.detach().to(torch.float32).contiguous()
        bias = operator.bias
        bias = None if bias is None else bias.detach().to(torch.float32).contiguous()
        place = None if bias is None else bias.data_ptr()
        builder.library.archcost_linear_pack(outs, ins, ins, weight.data_ptr(), place, address)

    packed = builder.weights(builder.library.archcost_linear_packed_floats(outs, ins), pack)
    rows = prod(node.output.shape[:-1])
    arguments = LinearArguments(activation_arguments(operator.activation), rows, ins, outs, ins, outs, outs)
    added = builder.held[node.inputs[1]] if operator.adds else None
    places = (builder.held[node.inputs[0]], packed, added, builder.held[node.output])
    builder.step(node, "linear", arguments, places)


def _matmul_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    a, b = node.inputs
    operator = node.operator
    assert isinstance(operator, MatMul)
    if (
        operator.scale != 1
        or a.constant is not None
        or b.constant is not None
        or a.shape[:-2] != b.shape[:-2]
    ):
        return None
    return [Form.PLAIN, Form.PLAIN], Form.PLAIN


@lowers(MatMul, _matmul_forms)
def matmul(builder: Builder, node: Node) -> None:
    a, b = node.inputs
    rows, depth, columns = *a.shape[-2:], b.shape[-1]
    batch = prod(a.shape[:-2])
    sizes = (1, batch, rows, depth, columns, 0)
    strides = (0, rows * depth, depth, 0, depth * columns, columns, 0, rows * columns, columns)
    arguments = MatmulArguments(activation_arguments(IDENTITY), *sizes, *strides)
    builder.step(node, "matmul", arguments, (builder.held[a], builder.held[b], builder.held[node.output]))


def _attention_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    q, k, v, *masks = node.inputs
    if any(value.constant is not None for value in (q, k, v)):
        return None
    if any(mask.shape[-1:] != k.shape[2:3] or len(mask.shape) > 4 for mask in masks):
        return None
    return [Form.PLAIN] * len(node.inputs), Form.PLAIN


@lowers(Attention, _attention_forms)
def attention(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Attention)
    q, k, v, *masks = node.inputs

    def heads(value: Value) -> Heads:
        _, several, rows, length = value.shape
        return Heads(several * rows * length, rows * length, length)

    arguments = AttentionArguments(
        *(q.shape[0], q.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3]),
        *map(heads, (q, k, v, node.output)),
        _mask(masks[0].shape) if masks else Mask(1, 0, 0, 0),
        Mask(1, 0, 0, 0),
        operator.scale,
    )
    mask = builder.held[masks[0]] if masks else None
    places = (*(builder.held[value] for value in (q, k, v)), mask, None, builder.held[node.output])
    builder.step(node, "attention", arguments, places)


def _mask(shape: Sequence[int]) -> Mask:
    """Where its rows lie; dimensions of one element are the same for all."""
    batch, heads, rows, keys = (1,) * (4 - len(shape)) + tuple(shape)
    strides = (heads * rows * keys, rows * keys, keys)
    return Mask(
        batch,
        *(stride if size > 1 else 0 for size, stride in zip((batch, heads, rows), strides, strict=True)),
    )
