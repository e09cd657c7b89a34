"""Joining tensors: one after another, or on top of each other."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, cat
from archcost.fields.registry import See, field_rule
from archcost.fields.rules.tables import dim_of
from archcost.trace.graph import Op
from archcost.trace.schema import named


@field_rule(*named("cat concat _cat"), *named("cat cat_relu", "quantized"))
def concatenate(op: Op, see: See) -> Intervals | None:
    # Empty tensors of one dimension are passed over, as PyTorch does.
    refs = [ref for ref in op.args[0] if ref.shape != (0,)]
    dim = dim_of(op)
    return cat([(see(ref), ref.shape[dim]) for ref in refs], dim, op.outputs[0].shape)


@field_rule("aten.stack")
def stack(op: Op, see: See) -> Intervals | None:
    out = op.outputs[0].shape
    dim = dim_of(op) % len(out)
    return cat([(x and x.unsqueeze(dim), 1) for x in map(see, op.args[0])], dim, out, new=True)
