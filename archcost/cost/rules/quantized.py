"""Eager-mode int8 operators with packed weights, counted like their floating-point forms.

Requantising (scale, round, zero point) is one operation per output element.
"""

from __future__ import annotations

from math import prod

from archcost.cost.rules.convolution import convolution_macs
from archcost.cost.rules.tables import given, made, table, without_macs
from archcost.trace.graph import Op, PackedWeights


def _packed(op: Op) -> PackedWeights:
    found = next((arg for arg in op.args if isinstance(arg, PackedWeights)), None)
    if found is None:
        raise ValueError("no packed weights among the arguments")
    return found


def _relu(op: Op) -> bool:
    return "relu" in op.name


def _extras(op: Op) -> int:
    return (1 + (_packed(op).bias > 0) + _relu(op)) * made(op)


def _convolution(op: Op) -> tuple[int, int]:
    shape, x = _packed(op).shape, op.args[0].shape
    if len(shape) > len(x):  # a 1-d convolution is packed with a height of 1
        shape = (*shape[:2], *shape[3:])
    return convolution_macs(x, shape, op.outputs[0].shape, _packed(op).transposed), _extras(op)


def _linear(op: Op) -> tuple[int, int]:
    return given(op) // op.args[0].shape[-1] * prod(_packed(op).shape), _extras(op)


table("convolution", {"conv{,_transpose}{1,2,3}d{,_relu,_dynamic,_add,_add_relu}": _convolution}, "quantized")
table("matmul", {"linear{,_relu,_leaky_relu,_tanh} linear{,_relu}_dynamic{,_fp16}": _linear}, "quantized")
without_macs(
    "pointwise",
    {"{add,mul}{,_relu,_out,_relu_out,_scalar,_scalar_relu}": lambda op: (2 + _relu(op)) * made(op)},
    "quantized",
)
without_macs(
    "activation",
    {"relu6 hardswish leaky_relu elu celu sigmoid softmax prelu": lambda op: 2 * made(op)},
    "quantized",
)
without_macs(
    "norm",
    {
        "batch_norm{,2d,3d}{,_relu} batch_norm1d": lambda op: (3 + _relu(op)) * made(op),
        "{layer,group,instance}_norm": lambda op: 9 * made(op),
    },
    "quantized",
)
without_macs("movement", {"cat cat_relu": made}, "quantized")
without_macs(
    "pointwise",
    {
        "quantize_per_{tensor,channel,tensor_dynamic} dequantize": lambda op: (
            2 * sum(out.numel for out in op.outputs)
        )
    },
)
