"""Activations and arithmetic of one or two tensors."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from archcost.engine.activation import RELU, Activation
from archcost.engine.graph import Value
from archcost.engine.operators import Activate, Elementwise
from archcost.engine.reading.registry import reads

if TYPE_CHECKING:
    from archcost.engine.reading.reader import Arguments, Reader


def _activated(reader: Reader, x: Value, activation: Activation) -> Value:
    return reader.add(Activate(activation), x, shape=x.shape)


@reads(*(f"aten.{name}" for name in ("silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "mish")))
def plain(reader: Reader, given: Arguments) -> Value:
    return _activated(reader, given.first, Activation(given.op.base.removeprefix("aten.").removesuffix("_")))


@reads("aten.relu")
def relu(reader: Reader, given: Arguments) -> Value:
    return _activated(reader, given.first, RELU)


@reads("aten.relu6")
def relu6(reader: Reader, given: Arguments) -> Value:
    return _activated(reader, given.first, Activation("clamp", 0.0, 6.0))


@reads("aten.hardtanh")
def hardtanh(reader: Reader, given: Arguments) -> Value:
    bounds = float(given["min_val"]), float(given["max_val"])
    return _activated(reader, given.first, Activation("clamp", *bounds))


@reads("aten.clamp", "aten.clamp_min", "aten.clamp_max")
def clamp(reader: Reader, given: Arguments) -> Value | None:
    if given.op.name.endswith(".Tensor"):
        return None
    low = None if given.op.base.startswith("aten.clamp_max") else given["min"]
    high = None if given.op.base.startswith("aten.clamp_min") else given["max"]
    bounds = -inf if low is None else float(low), inf if high is None else float(high)
    return _activated(reader, given.first, Activation("clamp", *bounds))


@reads("aten.gelu")
def gelu(reader: Reader, given: Arguments) -> Value:
    return _activated(
        reader, given.first, Activation("gelu" if given["approximate"] == "none" else "gelu_tanh")
    )


@reads("aten.leaky_relu")
def leaky_relu(reader: Reader, given: Arguments) -> Value:
    return _activated(reader, given.first, Activation("leaky_relu", float(given["negative_slope"])))


@reads("aten.rrelu_with_noise")
def rrelu(reader: Reader, given: Arguments) -> Value:
    """In evaluation, the slope is the mean of its bounds."""
    slope = (float(given["lower"]) + float(given["upper"])) / 2
    return _activated(reader, given.first, Activation("leaky_relu", slope))


@reads("aten.elu")
def elu(reader: Reader, given: Arguments) -> Value | None:
    if given["scale"] != 1 or given["input_scale"] != 1:
        return None
    return _activated(reader, given.first, Activation("elu", float(given["alpha"])))


@reads("aten.softplus")
def softplus(reader: Reader, given: Arguments) -> Value | None:
    if given["beta"] != 1 or given["threshold"] != 20:
        return None
    return _activated(reader, given.first, Activation("softplus"))


@reads("aten.add", "aten.sub", "aten.mul", "aten.div", "aten.maximum", "aten.minimum")
def arithmetic(reader: Reader, given: Arguments) -> Value | None:
    kind = given.op.base.removeprefix("aten.").removesuffix("_")
    if given.op.name.endswith("_mode") or given.op.name.endswith(".out"):
        return None
    a, b = given.first, given["other"]
    if kind in ("add", "sub") and given["alpha"] != 1:
        return None
    if isinstance(b, (int, float)) and not isinstance(b, bool):
        b = reader.constant(b)
    if not isinstance(b, Value) or not _real(given):
        return None
    return reader.add(Elementwise(kind), a, b, shape=given.shape)  # type: ignore[arg-type]


def _real(given: Arguments) -> bool:
    return all(ref.dtype.is_floating_point for ref in (*given.op.tensors(), *given.op.outputs))
