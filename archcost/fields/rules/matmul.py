"""Matrix products and attention: reduce along what is summed, then unite."""

from __future__ import annotations

from typing import Any

import numpy as np

from archcost.fields.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def product(a: Intervals | None, b: Intervals | None, shape: Any, op: int) -> Intervals | None:
    """(..., i, k) times (..., k, j): element (i, j) sees row i of the one and column j of the other."""
    left = None if a is None else a.reduce([-1], op)
    right = None if b is None else b.reduce([-2], op)
    return union([left, right], shape)


@field_rule("aten.mm", "aten.bmm", "aten._int_mm", "aten._scaled_mm")
def plain(op: Op, see: See) -> Intervals | None:
    return product(see(op.args[0]), see(op.args[1]), op.outputs[0].shape, op.index)


@field_rule("aten.addmm", "aten.baddbmm", "aten._addmm_activation")
def with_sum(op: Op, see: See) -> Intervals | None:
    out = op.outputs[0].shape
    return union([see(op.args[0]), product(see(op.args[1]), see(op.args[2]), out, op.index)], out)


@field_rule("aten.addbmm")
def batch_sum(op: Op, see: See) -> Intervals | None:
    added, one, other = (see(arg) for arg in op.args[:3])
    out = op.outputs[0].shape
    batch = op.args[1].shape[0]
    summed = product(one, other, (batch, *out), op.index)
    return union([added, summed and summed.reduce([0], op.index, keepdim=False)], out)


@field_rule("aten.mv", "aten.dot", "aten.vdot")
def with_vector(op: Op, see: See) -> Intervals | None:
    matrix, vector = see(op.args[0]), see(op.args[1])
    out = op.outputs[0].shape
    rows = None if matrix is None else matrix.reduce([-1], op.index, keepdim=False)
    whole = None if vector is None else vector.everything(out, op.index)
    return union([rows, whole], out)


@field_rule("aten.addmv")
def with_vector_and_sum(op: Op, see: See) -> Intervals | None:
    added, matrix, vector = (see(arg) for arg in op.args[:3])
    out = op.outputs[0].shape
    rows = None if matrix is None else matrix.reduce([-1], op.index, keepdim=False)
    whole = None if vector is None else vector.everything(out, op.index)
    return union([added, rows, whole], out)


@field_rule("aten.ger", "aten.outer")
def outer(op: Op, see: See) -> Intervals | None:
    rows, columns = see(op.args[0]), see(op.args[1])
    return union([rows and rows.unsqueeze(-1), columns], op.outputs[0].shape)


@field_rule("aten.linear", "aten.mkldnn_linear", "aten._weight_int8pack_mm", "aten._weight_int4pack_mm")
def linear(op: Op, see: See) -> Intervals | None:
    x, weight = see(op.args[0]), see(op.args[1])
    out = op.outputs[0].shape
    right = weight and weight.transpose(-2, -1)
    return product(x, right, out, op.index)


@field_rule("aten._trilinear")
def bilinear(op: Op, see: See) -> Intervals | None:
    out = op.outputs[0].shape
    parts = []
    for arg in (op.args[0], op.args[2]):
        x = see(arg)
        if x is not None:
            parts.append(x.reduce([-1], op.index, keepdim=False))
    seen = union(parts, out[:-1])
    return seen and seen.unsqueeze(-1).expand(out)


@field_rule("aten._cdist_forward", "aten._euclidean_dist")
def distances(op: Op, see: See) -> Intervals | None:
    one, other = see(op.args[0]), see(op.args[1])
    return product(one, other and other.transpose(-2, -1), op.outputs[0].shape, op.index)


def attend(
    query: Intervals | None, key: Intervals | None, value: Intervals | None, op: Op, shape: Any, causal: bool
) -> Intervals | None:
    """softmax(Q K^T) V over (..., length, width): a query sees itself and every key and value."""
    width = shape[:-1]
    parts: list[Intervals | None] = []
    if query is not None:
        parts.append(query.reduce([-1], op.index, keepdim=False).expand(width))
    for part in (key, value):
        if part is None:
            continue
        rows = part.reduce([-1], op.index, keepdim=False)
        heads, wanted = rows.shape[-2] if rows.rank > 1 else 1, width[-2] if len(width) > 1 else 1
        if heads not in (1, wanted):  # grouped queries share a head of keys
            rows = rows.repeat_each(-2, wanted // heads)
        if causal:
            rows = rows.running(-1)
            rows = rows.take(-1, np.minimum(np.arange(width[-1]), rows.shape[-1] - 1))
            parts.append(rows)
        else:
            parts.append(rows.reduce([-1], op.index).expand(width))
    seen = union(parts, width)
    return seen and seen.unsqueeze(-1).expand(shape)


@field_rule(
    *("aten._scaled_dot_product_flash_attention_for_cpu", "aten._scaled_dot_product_flash_attention"),
    *("aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_cudnn_attention"),
    *("aten._scaled_dot_product_fused_attention_overrideable", "aten.scaled_dot_product_attention"),
    "aten._scaled_dot_product_attention_math_for_mps",
)
def attention(op: Op, see: See) -> Any:
    given = arguments(op)
    query, key, value = (see(arg) for arg in op.args[:3])
    shape = op.outputs[0].shape
    out = attend(query, key, value, op, shape, bool(given.get("is_causal", False)))
    for name in ("attn_mask", "attn_bias"):
        mask = see(given.get(name))
        if mask is not None:
            per_query = mask.reduce([-1], op.index).expand((*shape[:-1], 1))
            out = union([out, per_query], shape)
    return [out] + [None] * (len(op.outputs) - 1)


@field_rule("aten._native_multi_head_attention", "aten._transformer_encoder_layer_fwd", "flex_attention")
def whole_layer(op: Op, see: See) -> Any:
    """Fused layers over (batch, length, width): every position sees itself and all others."""
    x = see(op.args[0])
    if x is None:
        return None
    rows = x.reduce([-1], op.index)
    mixed = rows.mixed([-2], op.index)
    return [mixed.expand(ref.shape) if len(ref.shape) == x.rank else None for ref in op.outputs]
