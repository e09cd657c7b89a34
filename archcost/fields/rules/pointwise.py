"""Pointwise operators. Those that the framework tags as such need no entry here."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, field_rule, first, pointwise
from archcost.trace.graph import Op, TensorRef
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
    *("aten._prelu_kernel", "aten.rrelu", "aten.normal", "aten.poisson", "aten.bernoulli"),
    *("aten.floor_divide", "aten.rsub", "aten._add_relu", "aten.binomial", "aten._standard_gamma"),
    *("aten.fake_quantize_per_tensor_affine_cachemask", "aten.rrelu_with_noise_functional"),
    *(f"quantized.{name}{tail}" for name in ("add", "mul") for tail in ("", "_relu", "_out", "_relu_out")),
    *(f"quantized.{name}_scalar{tail}" for name in ("add", "mul") for tail in ("", "_relu")),
)(pointwise)


@field_rule("aten.prelu", "quantized.prelu")
def prelu(op: Op, see: See) -> Intervals | None:
    x, weight = see(op.args[0]), see(op.args[1])
    out = op.outputs[0].shape
    return union([x, weight and weight.reshape((-1, *(1,) * (len(out) - 2)))], out)


@field_rule("aten.copy", "aten.fill.Tensor", "aten.bernoulli_.Tensor", "aten.bernoulli.Tensor")
def copy(op: Op, see: See) -> Intervals | None:
    """``copy_`` overwrites its first argument."""
    return union([see(op.args[1])], op.outputs[0].shape)


@field_rule(
    *("aten.fake_quantize_per_channel_affine_cachemask", "aten._fake_quantize_learnable_per_tensor_affine"),
    *("aten._fake_quantize_learnable_per_channel_affine",),
    *("aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams",),
)
def fake_quantize(op: Op, see: See) -> Intervals | None:
    """Each element, by a scale and a zero point."""
    out = op.outputs[0].shape
    qparams = [x.everything(out, op.index) for x in map(see, op.args[1:3]) if x is not None]
    return union([see(op.args[0]), *qparams], out)


@field_rule("aten._fused_moving_avg_obs_fq_helper")
def observed(op: Op, see: See) -> Intervals | None:
    """The scale may be that of the tensor itself: it observes its smallest and largest element."""
    x = see(op.args[0])
    return x and x.mixed(None, op.index)


@field_rule("aten._foreach_add", "aten._foreach_mul", "aten._foreach_sub", "aten._foreach_div")
def foreach(op: Op, see: See) -> list[Intervals | None]:
    """The same operation on each tensor of a list; others are lists as well, or one tensor for all."""
    operands = [arg for arg in op.args if isinstance(arg, (tuple, TensorRef))]
    return [
        union([see(arg if isinstance(arg, TensorRef) else arg[i]) for arg in operands], ref.shape)
        for i, ref in enumerate(op.outputs)
    ]


@field_rule("aten.glu")
def glu(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    dim = x.dim(arguments(op).get("dim", -1))
    half = x.shape[dim] // 2
    return union([x.slice(dim, 0, half), x.slice(dim, half, 2 * half)], op.outputs[0].shape)
