"""Padding: what lies outside is nothing, the border, or the mirrored inside."""

from __future__ import annotations

from collections.abc import Sequence

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.intervals.taps import pad
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op


def _padded(x: Intervals | None, pads: Sequence[int], outside: str) -> Intervals | None:
    """``pads`` is (low, high) of the last dimension, then of the one before, and so on."""
    if x is None:
        return None
    taps = {}
    for i in range(len(pads) // 2):
        low, high = pads[2 * i], pads[2 * i + 1]
        dim = x.rank - 1 - i
        if low or high:
            taps[dim] = pad(x.shape[dim], low, high, outside)
    return x.windows(taps) if taps else x


@field_rule("aten.constant_pad_nd")
def constant_pad(op: Op, see: See) -> Intervals | None:
    return _padded(see(op.args[0]), op.args[1], "skip")


@field_rule(*(f"aten.reflection_pad{n}d" for n in (1, 2, 3)))
def reflection_pad(op: Op, see: See) -> Intervals | None:
    return _padded(see(op.args[0]), op.args[1], "reflect")


@field_rule(*(f"aten.replication_pad{n}d" for n in (1, 2, 3)))
def replication_pad(op: Op, see: See) -> Intervals | None:
    return _padded(see(op.args[0]), op.args[1], "clamp")
