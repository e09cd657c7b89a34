"""Recurrent layers run as one operator: each step sees those before it, or all where it goes both ways."""

from __future__ import annotations

from typing import Any

from archcost.fields.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op, refs
from archcost.trace.schema import arguments


def _steps(x: Intervals, dim: int, both_ways: bool, op: Op, reverse: bool = False) -> Intervals:
    rows = x.reduce([x.rank - 1], op.index)
    if both_ways:
        return rows.reduce([dim], op.index).expand(rows.shape)
    if reverse:
        import numpy as np

        back = np.arange(x.shape[dim])[::-1]
        return rows.take(dim, back).running(dim).take(dim, back)
    return rows.running(dim)


def _outputs(x: Intervals, out: Intervals, dim: int, op: Op) -> list[Intervals | None]:
    """The sequence, and final states that have seen all of it."""
    found: list[Intervals | None] = [out.expand(op.outputs[0].shape)]
    for ref in op.outputs[1:]:
        found.append(x.everything(ref.shape, op.index))
    return found


@field_rule("aten.mkldnn_rnn_layer")
def mkldnn_layer(op: Op, see: See) -> Any:
    given = arguments(op)
    x = see(given["input"])
    if x is None:
        return None
    out = _steps(x, 0, False, op, bool(given.get("reverse", False)))
    return _outputs(x, out, 0, op)


@field_rule("aten._cudnn_rnn", "aten.miopen_rnn")
def device_layers(op: Op, see: See) -> Any:
    given = arguments(op)
    x = see(given["input"])
    if x is None:
        return None
    dim = 1 if given.get("batch_first") else 0
    out = _steps(x, dim, bool(given.get("bidirectional")), op)
    return _outputs(x, out, dim, op)


@field_rule("aten._thnn_fused_lstm_cell", "aten._thnn_fused_gru_cell")
def cell(op: Op, see: See) -> Any:
    """Gates of one step, each unit from the same unit of every gate: rows are what counts."""
    seen = [x.reduce([-1], op.index) for x in map(see, refs(op.args)) if x is not None and x.rank > 1]
    return [
        union([x.expand((*x.shape[:-1], ref.shape[-1])) for x in seen], ref.shape) if seen else None
        for ref in op.outputs
    ]
