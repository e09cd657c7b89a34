"""Normalisation: each element by itself, and the statistics it is divided by, where they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op, TensorRef
from archcost.trace.schema import arguments


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


def _last(op: Op) -> range:
    """The dimensions of a norm over the last ones."""
    rank = len(op.outputs[0].shape)
    return range(rank - len(op.args[1]), rank)


@field_rule(
    *("aten.native_batch_norm", "aten._native_batch_norm_legit", "aten.cudnn_batch_norm"),
    *("aten._native_batch_norm_legit_no_training", "aten.miopen_batch_norm", "aten.batch_norm"),
    *("aten._batch_norm_with_update", "aten._batch_norm_no_update", "aten._batch_norm_impl_index"),
    *("aten._native_batch_norm_legit_functional", "aten._batch_norm_with_update_functional"),
    "aten.quantized_batch_norm",
    *(f"quantized.batch_norm{n}{tail}" for n in ("", "1d", "2d", "3d") for tail in ("", "_relu")),
)
def batch_norm(op: Op, see: See) -> list[Intervals | None]:
    """In training the statistics are those of each channel over batch and positions."""
    given = arguments(op)
    if given.get("training", "with_update" in op.name or op.name.endswith("no_stats")):
        every = [d for d in range(len(op.outputs[0].shape)) if d != 1]
        return _normalised(op, see, every, 1)
    return _normalised(op, see, None, 1, ("running_mean", "running_var", "mean", "var"))


@field_rule(
    *("aten.native_layer_norm", "aten.layer_norm", "quantized.layer_norm"),
    *("aten._fused_rms_norm", "aten.rms_norm"),
)
def layer_norm(op: Op, see: See) -> list[Intervals | None]:
    return _normalised(op, see, _last(op), None)


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


@field_rule("aten.renorm")
def renorm(op: Op, see: See) -> Intervals | None:
    """Each slice along a dimension is scaled by its own norm."""
    x = see(op.args[0])
    return x and x.mixed([d for d in range(x.rank) if d != x.dim(arguments(op)["dim"])], op.index)
