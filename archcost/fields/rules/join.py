"""Joining tensors: one after another, or on top of each other."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, cat
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


@field_rule("aten.cat", "aten.concat", "aten._cat", "quantized.cat", "quantized.cat_relu")
def concatenate(op: Op, see: See) -> Intervals | None:
    # Empty tensors of one dimension are passed over, as the framework does.
    refs = [ref for ref in op.args[0] if ref.shape != (0,)]
    dim = arguments(op).get("dim", 0)
    out = op.outputs[0].shape
    return cat([(see(ref), ref.shape[dim]) for ref in refs], dim, out)


@field_rule("aten.stack")
def stack(op: Op, see: See) -> Intervals | None:
    out = op.outputs[0].shape
    dim = arguments(op).get("dim", 0)
    dim = dim + len(out) if dim < 0 else dim
    seen = [see(ref) for ref in op.args[0]]
    return cat([(x and x.unsqueeze(dim), 1) for x in seen], dim, out, new=True)
