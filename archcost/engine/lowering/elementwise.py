"""Arithmetic, activations and scales by channel as steps."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from archcost.engine.activation import Activation
from archcost.engine.forms import Form
from archcost.engine.graph import Node, Value
from archcost.engine.lowering.builder import Builder, Place
from archcost.engine.lowering.convolutions import activation_arguments
from archcost.engine.lowering.registry import lowers
from archcost.engine.operators import Activate, Affine, Elementwise
from archcost.kernels.steps import AffineArguments, ElementwiseArguments, Run, Runs

__all__: list[str] = []

# archcost::Operation and archcost::Second of src/elementwise.h
_OPERATIONS = {"add": 0, "sub": 1, "mul": 2, "div": 3, "maximum": 4, "minimum": 5}
_NONE = 6
_SWAPPED = {"sub": 7, "div": 8}
_RUN, _VECTOR, _FLOAT = 0, 1, 2


def _runs(builder: Builder, value: Value) -> Runs:
    if builder.form(value) is Form.BLOCKED:
        batch, channels, height, width = value.shape
        return Runs(batch, builder.blocks(channels), height * width * builder.lanes)
    return Runs(1, 1, prod(value.shape))


def _run(builder: Builder, value: Value) -> Run:
    if builder.form(value) is Form.BLOCKED:
        return Run(builder.held[value].batch_stride, value.shape[2] * value.shape[3] * builder.lanes)
    return Run(0, 0)


def _same(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form]:
    """In the form that it comes in."""
    return [given[0]], given[0]


@lowers(Activate, _same)
def activate(builder: Builder, node: Node) -> None:
    assert isinstance(node.operator, Activate)
    _step(builder, node, node.operator.activation, _NONE, node.inputs[0], None, _RUN, Run(0, 0))


def _step(
    builder: Builder,
    node: Node,
    activation: Activation,
    operation: int,
    a: Value,
    b: Place,
    second: int,
    run: Run,
) -> None:
    arguments = ElementwiseArguments(
        activation_arguments(activation),
        operation,
        second,
        _runs(builder, node.output),
        _run(builder, a),
        run,
        _run(builder, node.output),
    )
    builder.step(node, "elementwise", arguments, (builder.held[a], b, builder.held[node.output]))


def _affine_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    return ([Form.BLOCKED], Form.BLOCKED) if len(node.output.shape) == 4 else None


@lowers(Affine, _affine_forms)
def affine(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Affine)
    (x,) = node.inputs
    arguments = AffineArguments(
        activation_arguments(operator.activation),
        _VECTOR,
        _runs(builder, x),
        _run(builder, x),
        Run(0, builder.lanes),
        _run(builder, node.output),
    )
    factors = builder.channel_vector(operator.scale), builder.channel_vector(operator.shift)
    builder.step(node, "affine", arguments, (builder.held[x], *factors, builder.held[node.output]))


def _pair_forms(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form] | None:
    a, b = node.inputs
    real = [form for value, form in zip(node.inputs, given, strict=True) if value.constant is None]
    for one, other in ((a, b), (b, a)):
        if one.constant is None and _number(other) and one.shape == node.output.shape:
            return [Form.PLAIN if value is other else real[0] for value in node.inputs], real[0]
    if a.shape == b.shape:
        form = Form.BLOCKED if Form.BLOCKED in real else Form.PLAIN
        return (form, form), form
    if _gated(a, b) or _gated(b, a):
        return (Form.BLOCKED, Form.BLOCKED), Form.BLOCKED
    return None


def _number(value: Value) -> bool:
    """Whether it is a constant of one element."""
    return value.constant is not None and value.constant.numel() == 1


def _gated(x: Value, gate: Value) -> bool:
    return len(x.shape) == 4 and gate.shape == (*x.shape[:2], 1, 1)


@lowers(Elementwise, _pair_forms)
def elementwise(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Elementwise)
    a, b = node.inputs
    operation = _OPERATIONS[operator.kind]
    if _number(a) or (a.shape != b.shape and _gated(b, a)):
        a, b, operation = b, a, _SWAPPED.get(operator.kind, operation)
    if _number(b) and a.shape == node.output.shape:
        _step(builder, node, operator.activation, operation, a, builder.held[b], _FLOAT, Run(0, 0))
    elif a.shape == b.shape:
        _step(builder, node, operator.activation, operation, a, builder.held[b], _RUN, _run(builder, b))
    else:
        run = Run(builder.held[b].batch_stride, builder.lanes)
        _step(builder, node, operator.activation, operation, a, builder.held[b], _VECTOR, run)
