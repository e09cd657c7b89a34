"""Pooling: windows that skip the padding, channel by channel."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.intervals.taps import Taps, adaptive, window
from archcost.fields.registry import See, field_rule
from archcost.fields.rules.window import per_axis
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _axes(op: Op) -> int:
    return int(next(c for c in op.base if c.isdigit()))


@field_rule(
    *(f"aten.max_pool{n}d{tail}" for n in (1, 2, 3) for tail in ("", "_with_indices")),
    *(f"aten.avg_pool{n}d" for n in (1, 2, 3)),
    *("aten.mkldnn_max_pool2d", "aten.mkldnn_max_pool3d"),
    *(f"aten.quantized_max_pool{n}d" for n in (1, 2, 3)),
    slides=True,
)
def pool(op: Op, see: See) -> list[Intervals | None] | None:
    x = see(op.args[0])
    if x is None:
        return None
    given, axes = arguments(op), _axes(op)
    kernel = per_axis(given["kernel_size"], axes)
    stride = per_axis(given.get("stride") or kernel, axes)
    padding, dilation = (per_axis(given.get(name, d), axes) for name, d in (("padding", 0), ("dilation", 1)))
    first = x.rank - axes
    out = op.outputs[0].shape
    averages = "avg" in op.name
    whole = [
        first + i
        for i in range(axes)
        if averages and out[first + i] == 1 and kernel[i] - padding[i] >= x.shape[first + i] > 1
    ]
    # An average over all there is, is a global pooling, however it is written.
    if len(whole) == sum(n > 1 for n in x.shape[first:]) and whole:
        pooled = x.reduce(whole, op.index)
        return [pooled] * len(op.outputs)
    taps: dict[int, Taps] = {}
    for i in range(axes):
        n, m = x.shape[first + i], out[first + i]
        taps[first + i] = window(n, kernel[i], stride[i], padding[i], dilation[i], m)
    return [x.windows(taps)] * len(op.outputs)


@field_rule(
    *(
        f"aten.{kind}adaptive_{how}_pool{n}d"
        for kind in ("", "_")
        for how in ("avg", "max")
        for n in (1, 2, 3)
    ),
    "aten.mkldnn_adaptive_avg_pool2d",
)
def adaptive_pool(op: Op, see: See) -> list[Intervals | None] | None:
    x = see(op.args[0])
    if x is None:
        return None
    axes = _axes(op)
    first = x.rank - axes
    sizes = op.outputs[0].shape[first:]
    whole = [first + i for i, m in enumerate(sizes) if m == 1]
    taps = {
        first + i: adaptive(x.shape[first + i], m)
        for i, m in enumerate(sizes)
        if m not in (1, x.shape[first + i])
    }
    pooled = x.windows(taps) if taps else x
    if whole:
        pooled = pooled.reduce(whole, op.index)
    return [pooled] * len(op.outputs)


@field_rule("aten.fractional_max_pool2d", "aten.fractional_max_pool3d")
def fractional_pool(op: Op, see: See) -> list[Intervals | None] | None:
    """Where the windows lie is random: each output sees all along the pooled dimensions."""
    x = see(op.args[0])
    if x is None:
        return None
    axes = _axes(op)
    pooled = x.reduce(range(x.rank - axes, x.rank), op.index).expand(op.outputs[0].shape)
    return [pooled] * len(op.outputs)


@field_rule("aten.max_unpool2d", "aten.max_unpool3d")
def unpool(op: Op, see: See) -> Intervals | None:
    """Where each value goes depends on the values: each output sees all along the pooled dimensions."""
    x = see(op.args[0])
    if x is None:
        return None
    axes = _axes(op)
    return x.reduce(range(x.rank - axes, x.rank), op.index).expand(op.outputs[0].shape)
