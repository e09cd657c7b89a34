"""Convolutions, im2col and its inverse: windows along the spatial dimensions, a hull over the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.intervals.taps import Taps, transposed, window
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """One int an axis, from one for all or a list."""
    if isinstance(value, int):
        return (value,) * axes
    values = tuple(value)
    return values if len(values) == axes else values * axes


def channels(x: Intervals, dim: int, groups: int, out_channels: int, op: int) -> Intervals:
    """Each output channel sees the input channels of its group."""
    size = x.shape[dim]
    if groups == 1:
        reduced = x.reduce([dim], op)
    elif not any(s.varies(dim) for spans in x.axes for s in spans):
        reduced = x.slice(dim, 0, 1)
    else:
        split = x.reshape((*x.shape[:dim], groups, size // groups, *x.shape[dim + 1 :]))
        reduced = split.reduce([dim + 1], op, keepdim=False).repeat_each(dim, out_channels // groups)
        return reduced
    return reduced.expand((*x.shape[:dim], out_channels, *x.shape[dim + 1 :]))


def convolve(
    x: Intervals,
    op: Op,
    kernel: Sequence[int],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    is_transposed: bool = False,
) -> Intervals:
    """One convolution; ``op.outputs[0]`` says how large its output is."""
    out = op.outputs[0].shape
    axes = len(kernel)
    first = len(x.shape) - axes
    strides, pads, dilations = (per_axis(v, axes) for v in (stride, padding, dilation))
    mixed = channels(x, first - 1, groups, out[first - 1], op.index)
    make = transposed if is_transposed else window
    taps: dict[int, Taps] = {}
    for i in range(axes):
        n, m = x.shape[first + i], out[first + i]
        if (kernel[i], strides[i], pads[i], n) != (1, 1, 0, m):
            taps[first + i] = make(n, kernel[i], strides[i], pads[i], dilations[i], m)
    return mixed.windows(taps) if taps else mixed


@field_rule(
    *("aten.convolution", "aten._convolution", "aten.convolution_overrideable"),
    *("aten.conv1d", "aten.conv2d", "aten.conv3d"),
    *("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d"),
    *("aten.cudnn_convolution", "aten.cudnn_convolution_transpose", "aten.mkldnn_convolution"),
    *("aten.miopen_convolution", "aten.slow_conv_dilated2d", "aten.slow_conv_dilated3d"),
    *("aten._slow_conv2d_forward", "aten.slow_conv3d_forward", "aten.thnn_conv2d"),
    *("aten.conv_depthwise3d", "aten._conv_depthwise2d", "aten.slow_conv_transpose2d"),
    *("aten.slow_conv_transpose3d",),
    slides=True,
)
def convolution(op: Op, see: See) -> Intervals | None:
    given = arguments(op)
    x, weight = op.args[0], op.args[1]
    seen, kernel_seen = see(x), see(weight)
    axes = len(weight.shape) - 2
    flipped = bool(given.get("transposed", "transpose" in op.name))
    out = op.outputs[0].shape
    result = None
    if seen is not None:
        groups = given.get("groups", 1)
        if "depthwise" in op.name:
            groups = x.shape[-axes - 1]
        result = convolve(
            seen,
            op,
            weight.shape[2:],
            given.get("stride", 1),
            given.get("padding", 0),
            given.get("dilation", 1),
            groups,
            flipped,
        )
    # A kernel computed from the input is seen whole by every output, a bias by its own channel.
    kernel = kernel_seen and kernel_seen.everything(out, op.index)
    bias = see(given.get("bias"))
    added = bias and bias.reshape((*bias.shape, *(1,) * axes))
    return union([result, kernel, added], out)


@field_rule("aten.conv_tbc")
def conv_tbc(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    taps, _, out_channels = op.args[1].shape
    low = op.args[3] if len(op.args) > 3 else 0
    mixed = x.reduce([2], op.index).expand((*x.shape[:2], out_channels))
    return mixed.windows({0: window(x.shape[0], taps, 1, low, 1, op.outputs[0].shape[0])})


@field_rule("aten.im2col", slides=True)
def im2col(op: Op, see: See) -> Intervals | None:
    """(N, C, H, W) to (N, C kh kw, positions): element (c, i, j) at (y, x) is one pixel."""
    given = arguments(op)
    x = see(op.args[0])
    if x is None:
        return None
    kernel, dilation, padding, stride = (
        per_axis(given[name], 2) for name in ("kernel_size", "dilation", "padding", "stride")
    )
    batched = x if x.rank == 4 else x.unsqueeze(0)
    n, c = batched.shape[:2]
    out = batched
    positions = []
    for axis in (0, 1):
        size = batched.shape[2 + axis]
        count = (size + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        positions.append(count)
        # Each offset in the kernel is a window of one tap; they stand side by side in a new dimension.
        out = out.unfold(2 + 2 * axis, size, kernel[axis], stride[axis], padding[axis], dilation[axis], count)
    # Now (N, C, kh, ho, kw, wo).
    out = out.permute([0, 1, 2, 4, 3, 5]).reshape((n, c * kernel[0] * kernel[1], positions[0] * positions[1]))
    return out if x.rank == 4 else out.squeeze(0)


@field_rule("aten.col2im")
def col2im(op: Op, see: See) -> Intervals | None:
    """The inverse sum of im2col: a pixel sees every (offset, position) that was taken from it."""
    given = arguments(op)
    x = see(op.args[0])
    if x is None:
        return None
    size, kernel, dilation, padding, stride = (
        per_axis(given[name], 2) for name in ("output_size", "kernel_size", "dilation", "padding", "stride")
    )
    batched = x if x.rank == 3 else x.unsqueeze(0)
    counts = [(size[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1)]
    n = batched.shape[0]
    out = batched.reshape((n, batched.shape[1] // (kernel[0] * kernel[1]), *kernel, *counts))
    # (N, C, kh, kw, ho, wo): fold the width, then the height.
    for axis in (1, 0):
        out = out.fold(2 + axis, 4 + axis, size[axis], stride[axis], padding[axis], dilation[axis])
    out = out.reduce([2, 3], op.index, keepdim=False)
    return out if x.rank == 3 else out.squeeze(0)


@field_rule("aten.unfold_backward")
def unfold_backward(op: Op, see: See) -> Intervals | None:
    """The inverse sum of unfold along one dimension, as istft overlaps its frames."""
    x, (sizes, dim, _, step) = see(op.args[0]), op.args[1:]
    if x is None:
        return None
    dim %= len(sizes)
    folded = x.fold(x.rank - 1, dim, sizes[dim], step, 0, 1)
    return folded.reduce([x.rank - 1], op.index, keepdim=False)


@field_rule("aten.unfold", "aten.unfold_copy")
def unfold(op: Op, see: See) -> Intervals | None:
    """``Tensor.unfold``: overlapping windows of one dimension, as a new last one."""
    x = see(op.args[0])
    if x is None:
        return None
    given = arguments(op)
    dim = x.dim(given["dimension"])
    size, step = given["size"], given["step"]
    count = op.outputs[0].shape[dim] if x.rank else 1
    out = x.unfold(dim, x.shape[dim], size, step, 0, 1, count)  # the offsets come before the positions
    order = [d for d in range(out.rank) if d != dim] + [dim]
    return out.permute(order)
