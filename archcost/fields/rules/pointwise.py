"""Pointwise operators. Those that the framework tags as such need no entry here."""

from __future__ import annotations

from archcost.fields.intervals import Intervals, union
from archcost.fields.registry import See, field_rule, first, pointwise
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

field_rule(
    *(f"aten.{name}" for name in ("relu", "relu6", "hardtanh", "leaky_relu", "elu", "gelu", "silu", "mish")),
    *(f"aten.{name}" for name in ("sigmoid", "tanh", "hardswish", "hardsigmoid", "threshold", "softplus")),
    *(f"aten.{name}" for name in ("celu", "selu", "softshrink", "hardshrink", "log_sigmoid_forward")),
    *("aten.rrelu_with_noise", "aten.nan_to_num", "aten.clamp.default"),
    *(f"quantized.{name}" for name in ("relu6", "hardswish", "leaky_relu", "elu", "celu", "sigmoid")),
)(first)

field_rule(
    *(f"aten.{name}" for name in ("add", "sub", "mul", "div", "where", "masked_fill", "addcmul", "addcdiv")),
    *(f"aten.{name}" for name in ("clamp", "maximum", "minimum", "lerp", "copysign", "complex", "polar")),
    *("aten.mse_loss", "aten.bucketize", "aten._prelu_kernel", "aten.linalg_cross", "aten.rrelu"),
    *(f"quantized.{name}{tail}" for name in ("add", "mul") for tail in ("", "_relu", "_out", "_relu_out")),
    *(f"quantized.{name}_scalar{tail}" for name in ("add", "mul") for tail in ("", "_relu")),
)(pointwise)


@field_rule("aten.prelu", "quantized.prelu")
def prelu(op: Op, see: See) -> Intervals | None:
    return see(op.args[0])


@field_rule("aten.copy")
def copy(op: Op, see: See) -> Intervals | None:
    """``copy_`` overwrites its first argument."""
    return union([see(op.args[1])], op.outputs[0].shape)


@field_rule("aten.glu")
def glu(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    dim = x.dim(arguments(op).get("dim", -1))
    half = x.shape[dim] // 2
    return union([x.slice(dim, 0, half), x.slice(dim, half, 2 * half)], op.outputs[0].shape)
