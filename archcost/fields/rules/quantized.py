"""Eager int8 operators, whose weights are packed: windows as in their float forms."""

from __future__ import annotations

from archcost.fields.intervals import Intervals
from archcost.fields.registry import See, field_rule
from archcost.fields.rules.window import convolve
from archcost.trace.graph import Op, PackedWeights

_CONVOLUTIONS = tuple(
    f"quantized.conv{kind}{n}d{tail}"
    for kind in ("", "_transpose")
    for n in (1, 2, 3)
    for tail in ("", "_relu", "_dynamic")
)


def _packed(op: Op) -> PackedWeights:
    return next(arg for arg in op.args if isinstance(arg, PackedWeights))


@field_rule(*_CONVOLUTIONS, slides=True)
def convolution(op: Op, see: See) -> Intervals | None:
    x, packed = see(op.args[0]), _packed(op)
    if x is None:
        return None
    axes = x.rank - 2
    # A 1-d convolution is packed with a height of 1: the last values are its own.
    kernel, stride, padding, dilation = (
        values[-axes:] for values in (packed.shape, packed.stride, packed.padding, packed.dilation)
    )
    return convolve(x, op, kernel, stride, padding, dilation, packed.groups, packed.transposed)


@field_rule(
    *(
        f"quantized.linear{tail}"
        for tail in ("", "_relu", "_leaky_relu", "_tanh", "_dynamic", "_relu_dynamic")
    ),
    *("quantized.linear_dynamic_fp16", "quantized.linear_relu_dynamic_fp16"),
)
def linear(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.reduce([-1], op.index).expand(op.outputs[0].shape)
