"""Padding by constants, by the border, or mirrored."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.intervals.taps import pad
from archcost.fields.rules.tables import table
from archcost.trace.graph import Op


def _padded(x: Intervals, op: Op, outside: str) -> Intervals:
    """The pads are (low, high) of the last dimension, then of the one before, and so on."""
    pads = op.args[1]
    taps = {
        x.rank - 1 - i: pad(x.shape[x.rank - 1 - i], low, high, outside)
        for i, (low, high) in enumerate(zip(pads[::2], pads[1::2], strict=True))
        if low or high
    }
    return x.windows(taps) if taps else x


table(
    {
        "constant_pad_nd": lambda x, op: _padded(x, op, "skip"),
        "reflection_pad{1,2,3}d": lambda x, op: _padded(x, op, "reflect"),
        "replication_pad{1,2,3}d": lambda x, op: _padded(x, op, "clamp"),
    }
)
