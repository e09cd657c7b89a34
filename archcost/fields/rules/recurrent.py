"""Recurrent layers run as one operator: each step sees those before it, or all where it goes both ways."""

from __future__ import annotations

import numpy as np

from archcost.fields.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op, refs
from archcost.trace.schema import arguments

_STATES = ("hx", "cx", "hx_", "cx_")


@field_rule(
    *("aten.mkldnn_rnn_layer", "aten._cudnn_rnn", "aten.miopen_rnn"),
    *("aten.quantized_lstm.input", "aten.quantized_gru.input"),
)
def layers(op: Op, see: See) -> list[Intervals | None]:
    """The sequence, and final states (layers, batch, width) that have seen all of it.

    Every step sees the first states, and weights that are computed from the input.
    """
    given = arguments(op)
    by_layer = "mkldnn" in op.name  # one layer and direction; the length first, and no layers in the states
    time = 1 if given.get("batch_first") and not by_layer else 0
    x = see(given["input"])
    rows = x and x.reduce([-1], op.index)
    whole = rows and rows.reduce([time], op.index)
    if rows is None or (given.get("bidirectional") and not by_layer):
        steps = whole
    elif given.get("reverse"):
        back = np.arange(rows.shape[time])[::-1]
        steps = rows.take(time, back).running(time).take(time, back)
    else:
        steps = rows.running(time)
    states = list(refs([given.get(name) for name in _STATES]))
    # Of each row of the batch, as (1, batch, 1).
    first = [seen.reduce([-1], op.index) for ref in states if (seen := see(ref)) is not None]
    first = [seen.unsqueeze(0) if by_layer else seen.reduce([0], op.index) for seen in first]
    last = [whole and whole.transpose(0, time), *first]
    weights = [ref for ref in op.tensors() if ref not in (given["input"], *states)]
    found: list[Intervals | None] = []
    for i, ref in enumerate(op.outputs):
        if i == 0:
            parts = [steps, *(seen.transpose(0, time) for seen in first)]
        elif len(ref.shape) == (2 if by_layer else 3):
            parts = [seen and seen.squeeze(0) if by_layer else seen for seen in last]
        else:  # what is kept for the backward pass
            parts = [seen and seen.everything(ref.shape, op.index) for seen in last]
        parts += [seen.everything(ref.shape, op.index) for w in weights if (seen := see(w)) is not None]
        found.append(union(parts, ref.shape))
    return found


@field_rule("aten._thnn_fused_lstm_cell", "aten._thnn_fused_gru_cell")
def cell(op: Op, see: See) -> list[Intervals | None]:
    """One step of every row of a batch: gates of the input and of the state, and the state."""
    seen = [x.reduce([-1], op.index) for x in map(see, op.tensors()) if x is not None]
    return [union(seen, ref.shape) for ref in op.outputs]
