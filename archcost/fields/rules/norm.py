"""Normalisation: each element by itself, and the statistics it is divided by, where they are computed."""

from __future__ import annotations

from typing import Any

from archcost.fields.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _with_affine(x: Intervals | None, op: Op, see: See, dim: int | None) -> Intervals | None:
    """A scale and shift that come from the input themselves (hypernetworks) are seen as well."""
    out = op.outputs[0].shape
    given = arguments(op)
    extra = []
    for name in ("weight", "bias"):
        seen = see(given.get(name))
        if seen is not None:
            placed = (
                seen if dim is None else seen.reshape((-1 % 1 + seen.shape[0], *(1,) * (len(out) - dim - 1)))
            )
            extra.append(placed)
    return union([x, *extra], out) if extra else x


@field_rule(
    *("aten.native_batch_norm", "aten._native_batch_norm_legit", "aten.cudnn_batch_norm"),
    *("aten._native_batch_norm_legit_no_training", "aten.miopen_batch_norm", "aten.batch_norm"),
    *("aten._batch_norm_with_update", "aten._batch_norm_no_update"),
    *(f"quantized.batch_norm{n}{tail}" for n in ("", "1d", "2d", "3d") for tail in ("", "_relu")),
)
def batch_norm(op: Op, see: See) -> Any:
    """In training the statistics are those of each channel over batch and positions."""
    given = arguments(op)
    x = see(op.args[0])
    training = given.get("training", "with_update" in op.name or op.name.endswith("no_stats"))
    if x is not None and training:
        x = x.mixed([d for d in range(x.rank) if d != 1], op.index)
    return [_with_affine(x, op, see, 1), None, None]


@field_rule("aten.native_layer_norm", "aten.layer_norm", "quantized.layer_norm")
def layer_norm(op: Op, see: See) -> Any:
    x = see(op.args[0])
    if x is not None:
        dims = len(op.args[1])
        x = x.mixed(range(x.rank - dims, x.rank), op.index)
    return [_with_affine(x, op, see, None), None, None]


@field_rule("aten._fused_rms_norm", "aten.rms_norm")
def rms_norm(op: Op, see: See) -> Any:
    x = see(op.args[0])
    if x is not None:
        dims = len(op.args[1])
        x = x.mixed(range(x.rank - dims, x.rank), op.index)
    return [_with_affine(x, op, see, None), None]


@field_rule("aten.native_group_norm")
def native_group_norm(op: Op, see: See) -> Any:
    return [_grouped(see(op.args[0]), arguments(op)["group"], op, see), None, None]


@field_rule("aten.group_norm", "quantized.group_norm")
def group_norm(op: Op, see: See) -> Any:
    return _grouped(see(op.args[0]), arguments(op)["num_groups"], op, see)


def _grouped(x: Intervals | None, groups: int, op: Op, see: See) -> Intervals | None:
    if x is not None:
        if groups == 1:
            x = x.mixed(range(1, x.rank), op.index)
        else:
            n, c, *rest = x.shape
            split = x.reshape((n, groups, c // groups, *rest))
            x = split.mixed(range(2, split.rank), op.index).reshape(x.shape)
    return _with_affine(x, op, see, 1)


@field_rule("aten.instance_norm", "quantized.instance_norm")
def instance_norm(op: Op, see: See) -> Any:
    x = see(op.args[0])
    return None if x is None else x.mixed(range(2, x.rank), op.index)


@field_rule("aten._weight_norm_interface", "aten.renorm")
def weight_norm(op: Op, see: See) -> Any:
    x = see(op.args[0])
    return None if x is None else x.everything(op.outputs[0].shape, op.index)
