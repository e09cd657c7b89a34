"""Convolutions: every weight is used once for each position it slides over."""

from __future__ import annotations

from math import prod
from typing import Any

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op, TensorRef
from archcost.trace.schema import arguments


def convolution_macs(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    transposed: bool,
) -> int:
    """Batch x positions x weight elements; the positions are the input's where it is transposed.

    The weight is (out, in / groups, *taps), or (in, out / groups, *taps) where transposed, so its number
    of elements already holds the groups. Source: ``torch.utils.flop_counter.conv_flop_count`` / 2, which
    uses the same positions.
    """
    axes = len(weight_shape) - 2
    positions = input_shape if transposed else output_shape
    batch = input_shape[0] if len(input_shape) == axes + 2 else 1
    return batch * prod(positions[len(positions) - axes :]) * prod(weight_shape)


def _bias_ops(bias: Any, output: TensorRef) -> int:
    return output.numel if bias is not None else 0


@counting_rule(
    *("aten.convolution", "aten._convolution", "aten.convolution_overrideable", "aten.cudnn_convolution"),
    *("aten.mkldnn_convolution", "aten._slow_conv2d_forward", "aten.conv2d", "aten.conv1d", "aten.conv3d"),
    *("aten.conv_depthwise3d", "aten._conv_depthwise2d", "aten.slow_conv3d_forward", "aten.thnn_conv2d"),
    *("aten.slow_conv_dilated2d", "aten.slow_conv_dilated3d", "aten.miopen_convolution"),
    *("aten.miopen_depthwise_convolution", "aten._nnpack_spatial_convolution", "aten._mps_convolution"),
    kind="convolution",
)
def convolution(op: Op) -> tuple[int, int]:
    given = arguments(op)
    x, weight = op.args[0], op.args[1]
    macs = convolution_macs(x.shape, weight.shape, op.outputs[0].shape, bool(given.get("transposed", False)))
    return macs, _bias_ops(given.get("bias"), op.outputs[0])


@counting_rule(
    *("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d"),
    *("aten.slow_conv_transpose2d", "aten.slow_conv_transpose3d", "aten.cudnn_convolution_transpose"),
    *("aten.miopen_convolution_transpose", "aten._mps_convolution_transpose"),
    kind="convolution",
)
def convolution_transposed(op: Op) -> tuple[int, int]:
    x, weight = op.args[0], op.args[1]
    macs = convolution_macs(x.shape, weight.shape, op.outputs[0].shape, True)
    return macs, _bias_ops(arguments(op).get("bias"), op.outputs[0])


@counting_rule("aten.conv_tbc", kind="convolution")
def convolution_tbc(op: Op) -> tuple[int, int]:
    # Time x batch x channels, weight (taps, in, out); the bias is always there.
    time, batch, _ = op.outputs[0].shape
    return time * batch * op.args[1].numel, op.outputs[0].numel
