"""Dimensions in another order, slices and concatenations of plain tensors, as copies with other strides."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from archcost.engine.forms import Form
from archcost.engine.graph import Node, Value
from archcost.engine.lowering.builder import Builder, Place
from archcost.engine.lowering.registry import lowers
from archcost.engine.memory import Held
from archcost.engine.operators import Concatenate, Permute, Slice
from archcost.kernels.steps import CopyArguments

__all__: list[str] = []

_DIMENSIONS = 6


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[dim + 1 :]) for dim in range(len(shape))]


def _merged(sizes: Sequence[int], ins: Sequence[int], outs: Sequence[int]) -> list[tuple[int, int, int]]:
    """Size and strides of each dimension, neighbours that are one run on both sides as one."""
    found: list[tuple[int, int, int]] = []
    for size, came, went in zip(sizes, ins, outs, strict=True):
        if size == 1:
            continue
        if found and found[-1][1:] == (size * came, size * went):
            found[-1] = (found[-1][0] * size, came, went)
        else:
            found.append((size, came, went))
    return found


def _few(sizes: Sequence[int], ins: Sequence[int], outs: Sequence[int]) -> bool:
    return len(_merged(sizes, ins, outs)) <= _DIMENSIONS


def _copy(
    builder: Builder, node: Node, sizes: Sequence[int], ins: Sequence[int], outs: Sequence[int],
    source: Place, target: Place,
) -> None:  # fmt: skip
    dims = _merged(sizes, ins, outs)
    dims = [(1, 0, 0)] * (_DIMENSIONS - len(dims)) + dims
    arguments = CopyArguments(*((type(CopyArguments().sizes))(*column) for column in zip(*dims, strict=True)))
    builder.step(node, "copy", arguments, (source, target))


def _permuted(node: Node) -> tuple[tuple[int, ...], list[int], list[int]]:
    assert isinstance(node.operator, Permute)
    ins, shape = _strides(node.inputs[0].shape), node.output.shape
    return shape, [ins[dim] for dim in node.operator.order], _strides(shape)


def _plain(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form]:
    return [Form.PLAIN] * len(node.inputs), Form.PLAIN


def _permute_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    return _plain(node, given) if node.inputs[0].constant is None and _few(*_permuted(node)) else None


@lowers(Permute, _permute_forms)
def permute(builder: Builder, node: Node) -> None:
    places = builder.held[node.inputs[0]], builder.held[node.output]
    _copy(builder, node, *_permuted(node), *places)


def _sliced(node: Node) -> tuple[tuple[int, ...], list[int], list[int]]:
    operator = node.operator
    assert isinstance(operator, Slice)
    ins, shape = _strides(node.inputs[0].shape), node.output.shape
    ins[operator.dim] *= operator.step
    return shape, ins, _strides(shape)


def _slice_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    return _plain(node, given) if node.inputs[0].constant is None and _few(*_sliced(node)) else None


@lowers(Slice, _slice_forms)
def slice_(builder: Builder, node: Node) -> None:
    operator, (x,) = node.operator, node.inputs
    assert isinstance(operator, Slice)
    skipped = operator.start * _strides(x.shape)[operator.dim]
    _copy(builder, node, *_sliced(node), _behind(builder.held[x], skipped), builder.held[node.output])


def _behind(place: Held, count: int) -> Held:
    return Held(place.buffer, place.offset + count, place.batch_stride)


@lowers(Concatenate, _plain)
def concatenate(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Concatenate)
    outs, start = _strides(node.output.shape), 0
    for value in node.inputs:
        target = _behind(builder.held[node.output], start * outs[operator.dim])
        # At most three dimensions are left: before, along and behind the one that grows.
        _copy(builder, node, value.shape, _strides(value.shape), outs, _source(builder, value), target)
        start += value.shape[operator.dim]


def _source(builder: Builder, value: Value) -> Place:
    return builder.held[value] if value.constant is None else builder.constant(value.constant)
