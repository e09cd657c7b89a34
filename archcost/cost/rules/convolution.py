"""Convolutions: one MAC per weight and position."""

from __future__ import annotations

from math import prod

from archcost.cost.rules.tables import made, table
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def convolution_macs(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    transposed: bool,
) -> int:
    """The MACs of a convolution: batch x output positions x weight elements.

    For a transposed convolution the positions are the input's. The weight is (out, in / groups, *taps), or
    (in, out / groups, *taps) if transposed, so that its number of elements already accounts for groups.
    Source: ``torch.utils.flop_counter.conv_flop_count`` / 2.
    """
    axes = len(weight_shape) - 2
    positions = input_shape if transposed else output_shape
    batch = input_shape[0] if len(input_shape) == axes + 2 else 1
    return batch * prod(positions[len(positions) - axes :]) * prod(weight_shape)


def _convolution(op: Op) -> tuple[int, int]:
    given = arguments(op)
    transposed = bool(given.get("transposed", "transpose" in op.name))
    macs = convolution_macs(op.args[0].shape, op.args[1].shape, op.outputs[0].shape, transposed)
    return macs, made(op) if given.get("bias") is not None else 0


def _over_time(op: Op) -> tuple[int, int]:
    # Time x batch x channels, weight (taps, in, out); the bias is always there.
    time, batch, _ = op.outputs[0].shape
    return time * batch * op.args[1].numel, made(op)


table(
    "convolution",
    {
        """
        {,_}convolution convolution_overrideable {cudnn,mkldnn,miopen}_convolution conv{1,2,3}d thnn_conv2d
        conv_depthwise3d _conv_depthwise2d miopen_depthwise_convolution slow_conv_dilated{2,3}d
        _slow_conv2d_forward slow_conv3d_forward _nnpack_spatial_convolution _mps_convolution
        conv_transpose{1,2,3}d slow_conv_transpose{2,3}d {cudnn,miopen,_mps}_convolution_transpose
        """: _convolution,
        "conv_tbc": _over_time,
    },
)
