"""Element-wise operators; those that PyTorch tags as pointwise need no rule."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, field_rule, first, pointwise
from archcost.fields.rules.tables import dim_of, of_first
from archcost.trace.graph import Op, TensorRef
from archcost.trace.schema import named

_OF_ONE = """
    relu relu6 hardtanh leaky_relu elu gelu silu mish sigmoid tanh hardswish hardsigmoid threshold softplus
    celu selu softshrink hardshrink log_sigmoid_forward rrelu_with_noise nan_to_num clamp.default
"""
_OF_SEVERAL = """
    add sub mul div where masked_fill addcmul addcdiv clamp maximum minimum lerp copysign complex polar
    _prelu_kernel rrelu normal poisson bernoulli floor_divide rsub _add_relu binomial _standard_gamma
    fake_quantize_per_tensor_affine_cachemask rrelu_with_noise_functional
"""
_INT8 = "{add,mul}{,_relu,_out,_relu_out,_scalar,_scalar_relu}"
field_rule(*named(_OF_ONE), *named("relu6 hardswish leaky_relu elu celu sigmoid", "quantized"))(first)
field_rule(*named(_OF_SEVERAL), *named(_INT8, "quantized"))(pointwise)


@field_rule("aten.prelu", "quantized.prelu")
def prelu(op: Op, see: See) -> Intervals | None:
    x, weight = see(op.args[0]), see(op.args[1])
    out = op.outputs[0].shape
    return union([x, weight and weight.reshape((-1, *(1,) * (len(out) - 2)))], out)


@field_rule("aten.copy", "aten.fill.Tensor", "aten.bernoulli_.Tensor", "aten.bernoulli.Tensor")
def copy(op: Op, see: See) -> Intervals | None:
    """``copy_`` overwrites its first argument."""
    return union([see(op.args[1])], op.outputs[0].shape)


_BY_SCALES = """
    fake_quantize_per_channel_affine_cachemask _fake_quantize_learnable_per_{tensor,channel}_affine
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
"""


@field_rule(*named(_BY_SCALES))
def fake_quantize(op: Op, see: See) -> Intervals | None:
    """Each element, by a scale and a zero point."""
    out = op.outputs[0].shape
    qparams = [x.everything(out, op.index) for x in map(see, op.args[1:3]) if x is not None]
    return union([see(op.args[0]), *qparams], out)


@of_first("_fused_moving_avg_obs_fq_helper")
def observed(x: Intervals, op: Op) -> Intervals:
    """The scale may be that of the tensor itself: it observes its smallest and largest element."""
    return x.mixed(None, op.index)


@field_rule(*named("_foreach_{add,mul,sub,div}"))
def foreach(op: Op, see: See) -> list[Intervals | None]:
    """The same operation on each tensor of a list; others are lists as well, or one tensor for all."""
    operands = [arg for arg in op.args if isinstance(arg, (tuple, TensorRef))]
    return [
        union([see(arg if isinstance(arg, TensorRef) else arg[i]) for arg in operands], ref.shape)
        for i, ref in enumerate(op.outputs)
    ]


@of_first("glu")
def glu(x: Intervals, op: Op) -> Intervals | None:
    dim = x.dim(dim_of(op, -1))
    half = x.shape[dim] // 2
    return union([x.slice(dim, 0, half), x.slice(dim, half, 2 * half)], op.outputs[0].shape)
