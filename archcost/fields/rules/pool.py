"""Pooling: windows that skip the padding, channel by channel."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.intervals.taps import adaptive, window
from archcost.fields.rules.tables import of_first, shape_of
from archcost.fields.rules.window import per_axis
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _axes(op: Op) -> int:
    return int(next(c for c in op.base if c.isdigit()))


@of_first(
    """
    max_pool{1,2,3}d{,_with_indices} avg_pool{1,2,3}d mkldnn_max_pool{2,3}d quantized_max_pool{1,2,3}d
    """,
    slides=True,
)
def pool(x: Intervals, op: Op) -> Intervals:
    given, axes = arguments(op), _axes(op)
    kernel = per_axis(given["kernel_size"], axes)
    stride = per_axis(given.get("stride") or kernel, axes)
    padding, dilation = (per_axis(given.get(name, d), axes) for name, d in (("padding", 0), ("dilation", 1)))
    first, out = x.rank - axes, shape_of(op)
    whole = [
        first + i
        for i in range(axes)
        if "avg" in op.name and out[first + i] == 1 and kernel[i] - padding[i] >= x.shape[first + i] > 1
    ]
    # An average over all there is, is a global pooling, however it is written.
    if len(whole) == sum(n > 1 for n in x.shape[first:]) and whole:
        return x.reduce(whole, op.index)
    each = zip(x.shape[first:], kernel, stride, padding, dilation, out[first:], strict=True)
    return x.windows({first + i: window(*geometry) for i, geometry in enumerate(each)})


@of_first("{,_}adaptive_{avg,max}_pool{1,2,3}d mkldnn_adaptive_avg_pool2d")
def adaptive_pool(x: Intervals, op: Op) -> Intervals:
    first, out = x.rank - _axes(op), shape_of(op)
    dims = range(first, x.rank)
    whole = [d for d in dims if out[d] == 1]
    taps = {d: adaptive(x.shape[d], out[d]) for d in dims if out[d] not in (1, x.shape[d])}
    pooled = x.windows(taps) if taps else x
    return pooled.reduce(whole, op.index) if whole else pooled


@of_first("fractional_max_pool{2,3}d max_unpool{2,3}d")
def anywhere(x: Intervals, op: Op) -> Intervals:
    """Where a window lies is random, or where a value goes depends on it: each output sees all along them."""
    return x.reduce(range(x.rank - _axes(op), x.rank), op.index).expand(shape_of(op))
