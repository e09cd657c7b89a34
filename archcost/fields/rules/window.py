"""Convolutions, im2col and its inverse: windows along the spatial dimensions, a hull over the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.intervals.taps import transposed, window
from archcost.fields.registry import See, field_rule
from archcost.fields.rules.tables import of_first
from archcost.trace.graph import Op
from archcost.trace.schema import arguments, named


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """A value per axis, from a single value for all axes or a list."""
    if isinstance(value, int):
        return (value,) * axes
    values = tuple(value)
    return values if len(values) == axes else values * axes


def channels(x: Intervals, dim: int, groups: int, out_channels: int, op: int) -> Intervals:
    """Each output channel sees the input channels of its group."""
    before, size, behind = x.shape[:dim], x.shape[dim], x.shape[dim + 1 :]
    if groups > 1 and any(s.varies(dim) for spans in x.axes for s in spans):
        split = x.reshape((*before, groups, size // groups, *behind))
        return split.reduce([dim + 1], op, keepdim=False).repeat_each(dim, out_channels // groups)
    reduced = x.reduce([dim], op) if groups == 1 else x.slice(dim, 0, 1)
    return reduced.expand((*before, out_channels, *behind))


def convolve(
    x: Intervals,
    op: Op,
    kernel: Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    is_transposed: bool = False,
) -> Intervals:
    """The intervals after a convolution, whose output has the shape of ``op.outputs[0]``."""
    out = op.outputs[0].shape
    axes = len(kernel)
    first = len(x.shape) - axes
    strides, pads, dilations = (per_axis(v, axes) for v in (stride, padding, dilation))
    mixed = channels(x, first - 1, groups, out[first - 1], op.index)
    make = transposed if is_transposed else window
    each = zip(x.shape[first:], kernel, strides, pads, dilations, out[first:], strict=True)
    taps = {
        first + i: make(n, k, s, p, d, m)
        for i, (n, k, s, p, d, m) in enumerate(each)
        if (k, s, p, n) != (1, 1, 0, m)
    }
    return mixed.windows(taps) if taps else mixed


_CONVOLUTIONS = """
    {,_}convolution convolution_overrideable {cudnn,mkldnn,miopen}_convolution cudnn_convolution_transpose
    conv{1,2,3}d conv_transpose{1,2,3}d conv_depthwise3d _conv_depthwise2d thnn_conv2d _slow_conv2d_forward
    slow_conv3d_forward slow_conv_dilated{2,3}d slow_conv_transpose{2,3}d
"""


@field_rule(*named(_CONVOLUTIONS), slides=True)
def convolution(op: Op, see: See) -> Intervals | None:
    given, out = arguments(op), op.outputs[0].shape
    x, weight = op.args[0], op.args[1]
    seen, kernel_seen = see(x), see(weight)
    axes = len(weight.shape) - 2
    flipped = bool(given.get("transposed", "transpose" in op.name))
    groups = x.shape[-axes - 1] if "depthwise" in op.name else given.get("groups", 1)
    stride, padding, dilation = (
        given.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    result = seen and convolve(seen, op, weight.shape[2:], stride, padding, dilation, groups, flipped)
    # A kernel computed from the input is seen whole by every output, a bias by its own channel.
    kernel = kernel_seen and kernel_seen.everything(out, op.index)
    bias = see(given.get("bias"))
    added = bias and bias.reshape((*bias.shape, *(1,) * axes))
    return union([result, kernel, added], out)


@of_first("conv_tbc")
def conv_tbc(x: Intervals, op: Op) -> Intervals:
    taps, _, out_channels = op.args[1].shape
    low = op.args[3] if len(op.args) > 3 else 0
    mixed = x.reduce([2], op.index).expand((*x.shape[:2], out_channels))
    return mixed.windows({0: window(x.shape[0], taps, 1, low, 1, op.outputs[0].shape[0])})


class _Offsets(NamedTuple):
    """The window of an im2col along one axis."""

    kernel: int
    stride: int
    low: int
    dilation: int

    def count(self, size: int) -> int:
        return (size + 2 * self.low - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


def _offsets(op: Op) -> list[_Offsets]:
    given = arguments(op)
    names = ("kernel_size", "stride", "padding", "dilation")
    return list(map(_Offsets, *(per_axis(given[name], 2) for name in names)))


@of_first("im2col", slides=True)
def im2col(x: Intervals, op: Op) -> Intervals:
    """(N, C, H, W) to (N, C kh kw, positions): element (c, i, j) at (y, x) is one pixel."""
    out = batched = x if x.rank == 4 else x.unsqueeze(0)
    for dim, size, one in zip((2, 4), batched.shape[2:], _offsets(op), strict=True):
        # Each offset in the kernel is a window of one tap; they stand side by side in a new dimension.
        out = out.unfold(dim, size, *one, one.count(size))
    n, c, kh, ho, kw, wo = out.shape
    out = out.permute([0, 1, 2, 4, 3, 5]).reshape((n, c * kh * kw, ho * wo))
    return out if x.rank == 4 else out.squeeze(0)


@of_first("col2im")
def col2im(x: Intervals, op: Op) -> Intervals:
    """The inverse sum of im2col: a pixel sees every (offset, position) that was taken from it."""
    sizes, (height, width) = per_axis(arguments(op)["output_size"], 2), _offsets(op)
    batched = x if x.rank == 3 else x.unsqueeze(0)
    (n, c), (kh, kw) = batched.shape[:2], (height.kernel, width.kernel)
    out = batched.reshape((n, c // (kh * kw), kh, kw, height.count(sizes[0]), width.count(sizes[1])))
    # (N, C, kh, kw, ho, wo): fold the width, then the height.
    for axis, one in ((1, width), (0, height)):
        out = out.fold(2 + axis, 4 + axis, sizes[axis], *one[1:])
    out = out.reduce([2, 3], op.index, keepdim=False)
    return out if x.rank == 3 else out.squeeze(0)


@of_first("unfold_backward")
def unfold_backward(x: Intervals, op: Op) -> Intervals:
    """The inverse sum of unfold along one dimension, as istft overlaps its frames."""
    sizes, dim, _, step = op.args[1:]
    folded = x.fold(x.rank - 1, dim % len(sizes), sizes[dim], step, 0, 1)
    return folded.reduce([x.rank - 1], op.index, keepdim=False)


@of_first("unfold unfold_copy")
def unfold(x: Intervals, op: Op) -> Intervals:
    """``Tensor.unfold``: overlapping windows of one dimension, as a new last one."""
    dim, size, step = op.args[1:4]
    dim = x.dim(dim)
    count = op.outputs[0].shape[dim] if x.rank else 1
    out = x.unfold(dim, x.shape[dim], size, step, 0, 1, count)  # the offsets come before the positions
    return out.permute([d for d in range(out.rank) if d != dim] + [dim])
