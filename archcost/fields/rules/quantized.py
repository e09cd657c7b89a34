"""Eager int8 operators, whose weights are packed: windows as in their float forms."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.fields.rules.window import convolve
from archcost.trace.graph import Op, PackedWeights

_CONVOLUTIONS = tuple(
    f"quantized.conv{kind}{n}d{tail}"
    for kind in ("", "_transpose")
    for n in (1, 2, 3)
    for tail in ("", "_relu", "_dynamic", "_add", "_add_relu")
)


def _packed(op: Op) -> PackedWeights:
    return next(arg for arg in op.args if isinstance(arg, PackedWeights))


def _scaled(op: Op, see: See) -> Intervals | None:
    """The input; dynamic operators quantize it first, by its own smallest and largest element."""
    x = see(op.args[0])
    return x.mixed(None, op.index) if x is not None and "_dynamic" in op.name else x


@field_rule(*_CONVOLUTIONS, slides=True)
def convolution(op: Op, see: See) -> Intervals | None:
    """With ``_add`` the second argument is a tensor that is added to the result."""
    x, packed = _scaled(op, see), _packed(op)
    added = see(op.args[1])
    if x is None:
        return added
    axes = x.rank - 2
    # A 1-d convolution is packed with a height of 1: the last values are its own.
    kernel, stride, padding, dilation = (
        values[-axes:] for values in (packed.shape, packed.stride, packed.padding, packed.dilation)
    )
    out = convolve(x, op, kernel, stride, padding, dilation, packed.groups, packed.transposed)
    return union([out, added], op.outputs[0].shape)


@field_rule(
    *(
        f"quantized.linear{tail}"
        for tail in ("", "_relu", "_leaky_relu", "_tanh", "_dynamic", "_relu_dynamic")
    ),
    *("quantized.linear_dynamic_fp16", "quantized.linear_relu_dynamic_fp16"),
)
def linear(op: Op, see: See) -> Intervals | None:
    x = _scaled(op, see)
    return None if x is None else x.reduce([-1], op.index).expand(op.outputs[0].shape)
