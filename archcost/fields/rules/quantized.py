"""Eager int8 operators, whose weights are packed: windows as in their float forms."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.fields.rules.window import convolve
from archcost.trace.graph import Op, PackedWeights
from archcost.trace.schema import named

_CONVOLUTIONS = named("conv{,_transpose}{1,2,3}d{,_relu,_dynamic,_add,_add_relu}", "quantized")


def _scaled(op: Op, see: See) -> Intervals | None:
    """The input; dynamic operators quantize it first, by its own smallest and largest element."""
    x = see(op.args[0])
    return x.mixed(None, op.index) if x is not None and "_dynamic" in op.name else x


@field_rule(*_CONVOLUTIONS, slides=True)
def convolution(op: Op, see: See) -> Intervals | None:
    """With ``_add`` the second argument is a tensor that is added to the result."""
    x, packed = _scaled(op, see), next(arg for arg in op.args if isinstance(arg, PackedWeights))
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


@field_rule(*named("linear{,_relu,_leaky_relu,_tanh} linear{,_relu}_dynamic{,_fp16}", "quantized"))
def linear(op: Op, see: See) -> Intervals | None:
    x = _scaled(op, see)
    return None if x is None else x.reduce([-1], op.index).expand(op.outputs[0].shape)
