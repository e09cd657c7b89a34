"""Eager int8 operators, whose weights are packed: the counts of their float forms.

Requantising (scale, round, zero point) is counted as one operation an output element.
"""

from __future__ import annotations

from math import prod

from archcost.cost.registry import counting_rule
from archcost.cost.rules.convolution import convolution_macs
from archcost.trace.graph import Op, PackedWeights


def _packed(op: Op) -> PackedWeights:
    for arg in op.args:
        if isinstance(arg, PackedWeights):
            return arg
    raise ValueError("no packed weights among the arguments")


def _extras(op: Op, packed: PackedWeights) -> int:
    per_element = 1 + (packed.bias > 0) + ("relu" in op.name)
    return per_element * op.outputs[0].numel


_CONVOLUTIONS = tuple(
    f"quantized.conv{kind}{n}d{tail}"
    for kind in ("", "_transpose")
    for n in (1, 2, 3)
    for tail in ("", "_relu", "_dynamic", "_add", "_add_relu")
)


@counting_rule(*_CONVOLUTIONS, kind="convolution")
def convolution(op: Op) -> tuple[int, int]:
    packed = _packed(op)
    shape = packed.shape
    x, out = op.args[0].shape, op.outputs[0].shape
    if len(shape) > len(x):  # a 1-d convolution is packed with a height of 1
        shape = (*shape[:2], *shape[3:])
    return convolution_macs(x, shape, out, packed.transposed), _extras(op, packed)


@counting_rule(
    *(
        f"quantized.linear{tail}"
        for tail in ("", "_relu", "_leaky_relu", "_tanh", "_dynamic", "_relu_dynamic")
    ),
    *("quantized.linear_dynamic_fp16", "quantized.linear_relu_dynamic_fp16"),
    kind="matmul",
)
def linear(op: Op) -> tuple[int, int]:
    packed = _packed(op)
    rows = op.args[0].numel // op.args[0].shape[-1]
    return rows * prod(packed.shape), _extras(op, packed)


@counting_rule(
    *(
        f"quantized.{name}{tail}"
        for name in ("add", "mul")
        for tail in ("", "_relu", "_scalar", "_scalar_relu")
    ),
    *(f"quantized.{name}_out" for name in ("add", "mul", "add_relu", "mul_relu")),
    kind="pointwise",
)
def arithmetic(op: Op) -> tuple[int, int]:
    return 0, (2 + ("relu" in op.name)) * op.outputs[0].numel


@counting_rule(
    *(
        f"quantized.{name}"
        for name in ("relu6", "hardswish", "leaky_relu", "elu", "celu", "sigmoid", "softmax")
    ),
    "quantized.prelu",
    kind="activation",
)
def activation(op: Op) -> tuple[int, int]:
    return 0, 2 * op.outputs[0].numel


@counting_rule(
    *("quantized.batch_norm1d", "quantized.batch_norm2d", "quantized.batch_norm3d", "quantized.batch_norm"),
    *("quantized.batch_norm_relu", "quantized.batch_norm2d_relu", "quantized.batch_norm3d_relu"),
    kind="norm",
)
def batch_norm(op: Op) -> tuple[int, int]:
    return 0, (3 + ("relu" in op.name)) * op.outputs[0].numel


@counting_rule(*("quantized.layer_norm", "quantized.group_norm", "quantized.instance_norm"), kind="norm")
def layer_norm(op: Op) -> tuple[int, int]:
    return 0, 9 * op.outputs[0].numel


@counting_rule("quantized.cat", "quantized.cat_relu", kind="movement")
def concatenate(op: Op) -> tuple[int, int]:
    return 0, op.outputs[0].numel


@counting_rule(
    *("aten.quantize_per_tensor", "aten.quantize_per_channel", "aten.dequantize"),
    "aten.quantize_per_tensor_dynamic",
    kind="pointwise",
)
def convert(op: Op) -> tuple[int, int]:
    return 0, 2 * sum(out.numel for out in op.outputs)
