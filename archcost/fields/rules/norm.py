"""Normalisation: each element depends on itself, and on all elements of statistics that are computed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.fields.rules.tables import of_first
from archcost.trace.graph import Op, TensorRef
from archcost.trace.schema import arguments, named


def _normalised(
    op: Op, see: See, dims: Sequence[int] | None, channel: int | None, folded: Sequence[str] = ()
) -> list[Intervals | None]:
    """The result, normalised over ``dims``, and the statistics that are returned beside it.

    Scale, shift and the arguments ``folded`` may come from the input as well (hypernetworks); they lie
    along the dimension ``channel``, or else along the last ones.
    """
    out, given = op.outputs[0].shape, arguments(op)
    x = see(op.args[0])
    parts = [x if x is None or dims is None else x.mixed(dims, op.index)]
    for name in ("weight", "bias", *folded):
        seen = see(given.get(name))
        if seen is not None and channel is not None:
            seen = seen.reshape((seen.shape[0], *(1,) * (len(out) - channel - 1)))
        parts.append(seen)
    reduced = None if x is None or dims is None else x.reduce(dims, op.index)
    return [union(parts, out), *(_shaped(reduced, ref) for ref in op.outputs[1:])]


def _shaped(statistics: Intervals | None, ref: TensorRef) -> Intervals | None:
    if statistics is None or prod(statistics.shape) != ref.numel:
        return None
    return statistics.reshape(ref.shape)


_BATCH_NORMS = """
    {native_,cudnn_,miopen_,quantized_,}batch_norm _native_batch_norm_legit{,_no_training,_functional}
    _batch_norm_{with_update,no_update,impl_index,with_update_functional}
"""


@field_rule(*named(_BATCH_NORMS), *named("batch_norm{,1d,2d,3d}{,_relu}", "quantized"))
def batch_norm(op: Op, see: See) -> list[Intervals | None]:
    """In training the statistics are those of each channel over batch and positions."""
    given = arguments(op)
    if given.get("training", "with_update" in op.name or op.name.endswith("no_stats")):
        every = [d for d in range(len(op.outputs[0].shape)) if d != 1]
        return _normalised(op, see, every, 1)
    return _normalised(op, see, None, 1, ("running_mean", "running_var", "mean", "var"))


@field_rule(*named("native_layer_norm layer_norm _fused_rms_norm rms_norm"), "quantized.layer_norm")
def layer_norm(op: Op, see: See) -> list[Intervals | None]:
    """Over the last dimensions."""
    rank = len(op.outputs[0].shape)
    return _normalised(op, see, range(rank - len(op.args[1]), rank), None)


@field_rule("aten.instance_norm", "quantized.instance_norm")
def instance_norm(op: Op, see: See) -> list[Intervals | None]:
    if arguments(op).get("use_input_stats", True):
        return _normalised(op, see, range(2, len(op.outputs[0].shape)), 1)
    return _normalised(op, see, None, 1, ("running_mean", "running_var"))


@field_rule("aten.native_group_norm", "aten.group_norm", "quantized.group_norm")
def group_norm(op: Op, see: See) -> list[Intervals | None]:
    given = arguments(op)
    groups = given["group"] if "group" in given else given["num_groups"]
    out, *_ = _normalised(op, see, None, 1)
    x = see(op.args[0])
    if x is None:
        return [out, *(None for _ in op.outputs[1:])]
    n, c, *rest = x.shape
    split = x.reshape((n, groups, c // groups, *rest))
    inner = range(2, split.rank)
    mixed, statistics = split.mixed(inner, op.index).reshape(x.shape), split.reduce(inner, op.index)
    return [union([out, mixed], x.shape), *(_shaped(statistics, ref) for ref in op.outputs[1:])]


@field_rule("aten._weight_norm_interface")
def weight_norm(op: Op, see: See) -> list[Intervals | None]:
    """g v / |v|, and the norms: over all dimensions but one, along which g has its elements."""
    v, g = see(op.args[0]), see(op.args[1])
    kept = arguments(op).get("dim", 0)
    others = [d for d in range(len(op.args[0].shape)) if d != kept]
    result = union([v and v.mixed(others, op.index), g], op.outputs[0].shape)
    return [result, v and v.reduce(others, op.index)]


@of_first("renorm")
def renorm(x: Intervals, op: Op) -> Intervals:
    """Each slice along a dimension is scaled by its own norm."""
    return x.mixed([d for d in range(x.rank) if d != x.dim(arguments(op)["dim"])], op.index)
