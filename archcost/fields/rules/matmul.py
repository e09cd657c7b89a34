"""Matrix products and attention: the hull along the summed dimension of each factor, and their union."""

from __future__ import annotations

import numpy as np

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op, TensorRef, refs
from archcost.trace.schema import arguments, named


def product(
    a: Intervals | None, b: Intervals | None, shape: tuple[int, ...], op: int, kept: np.ndarray | None = None
) -> Intervals | None:
    """(..., i, k) times (..., k, j): element (i, j) depends on row i of ``a`` and column j of ``b``.

    ``kept`` (..., i, k) are booleans, false where an element of ``a`` is known to be zero.
    """
    left = None if a is None else a.reduce_where(-1, kept, op)
    return union([left, b and gathered(b, kept, op)], shape)


def gathered(rows: Intervals, kept: np.ndarray | None, op: int) -> Intervals:
    """Intervals of (..., i, j): row i reads those of the k rows of (..., k, j) in ``kept`` (..., i, k)."""
    if kept is None:
        return rows.reduce([-2], op)
    kept = kept.reshape((1,) * (rows.rank - kept.ndim) + kept.shape)
    return rows.unsqueeze(-3).reduce_where(-2, kept[..., None], op).squeeze(-2)


def _but(zeros: np.ndarray | None) -> np.ndarray | None:
    return None if zeros is None else ~zeros


def _multiplied(a: TensorRef, b: TensorRef, shape: tuple[int, ...], op: Op, see: See) -> Intervals | None:
    """The product of two matrices, or of two batches of them, without what is multiplied by zeros."""
    one, other = see(a), see(b)
    kept = _but(see.zeros(a))
    if kept is None and (zeros := see.zeros(b)) is not None:
        turned = product(
            other and other.transpose(-2, -1),
            one and one.transpose(-2, -1),
            (*shape[:-2], shape[-1], shape[-2]),
            op.index,
            _but(np.swapaxes(zeros, -2, -1)),
        )
        return turned and turned.transpose(-2, -1)
    return product(one, other, shape, op.index, kept)


@field_rule(*named("mm bmm _int_mm _scaled_mm"))
def plain(op: Op, see: See) -> Intervals | None:
    return _multiplied(op.args[0], op.args[1], op.outputs[0].shape, op, see)


@field_rule("aten._grouped_mm")
def grouped(op: Op, see: See) -> Intervals | None:
    """Which matrix a row or a column meets is said by values: it may be that of any group."""
    given, out = arguments(op), op.outputs[0].shape
    a, b, offsets = see(op.args[0]), see(op.args[1]), given.get("offs")
    if offsets is not None:
        a, b = (x and (x.reduce([0], op.index, keepdim=False) if x.rank == 3 else x) for x in (a, b))
        said = see(offsets)
        return union([product(a, b, out, op.index), said and said.everything(out, op.index)], out)
    return product(a, b, out, op.index)


@field_rule("aten.addmm", "aten.baddbmm", "aten._addmm_activation")
def with_sum(op: Op, see: See) -> Intervals | None:
    out = op.outputs[0].shape
    return union([see(op.args[0]), _multiplied(op.args[1], op.args[2], out, op, see)], out)


@field_rule("aten.matmul")
def any_rank(op: Op, see: See) -> Intervals | None:
    """As `product`, where one or both may be vectors."""
    a, b = see(op.args[0]), see(op.args[1])
    left = a and a.reduce([-1], op.index, keepdim=len(op.args[1].shape) > 1)
    right = b and b.reduce([max(b.rank - 2, 0)], op.index, keepdim=len(op.args[0].shape) > 1 and b.rank > 1)
    return union([left, right], op.outputs[0].shape)


@field_rule("aten.addbmm")
def batch_sum(op: Op, see: See) -> Intervals | None:
    added, one, other = (see(arg) for arg in op.args[:3])
    out = op.outputs[0].shape
    batch = op.args[1].shape[0]
    summed = product(one, other, (batch, *out), op.index)
    return union([added, summed and summed.reduce([0], op.index, keepdim=False)], out)


@field_rule("aten.mv", "aten.dot", "aten.vdot", "aten.addmv")
def with_vector(op: Op, see: See) -> Intervals | None:
    *added, matrix, vector = (see(arg) for arg in op.args[:3] if isinstance(arg, TensorRef))
    rows = matrix and matrix.reduce([-1], op.index, keepdim=False)
    whole = vector and vector.reduce([0], op.index, keepdim=False)
    return union([*added, rows, whole], op.outputs[0].shape)


@field_rule("aten.ger", "aten.outer", "aten.addr")
def outer(op: Op, see: See) -> Intervals | None:
    *added, rows, columns = (see(arg) for arg in op.args[:3] if isinstance(arg, TensorRef))
    return union([*added, rows and rows.unsqueeze(-1), columns], op.outputs[0].shape)


@field_rule("aten.linear", "aten.mkldnn_linear", "aten._weight_int8pack_mm", "aten._weight_int4pack_mm")
def linear(op: Op, see: See) -> Intervals | None:
    x, weight = see(op.args[0]), see(op.args[1])
    out = op.outputs[0].shape
    right = weight and weight.transpose(-2, -1)
    return union([product(x, right, out, op.index), see(arguments(op).get("bias"))], out)


@field_rule("aten._trilinear")
def bilinear(op: Op, see: See) -> Intervals | None:
    """x1 (rows, i), W (outputs, i, j), x2 (rows, j): output o of a row sees the row, and its own W."""
    x1, weight, x2 = (see(arg) for arg in op.args[:3])
    rows = [x and x.reduce([-1], op.index) for x in (x1, x2)]
    own = weight and weight.reduce([-2, -1], op.index, keepdim=False)
    return union([*rows, own], op.outputs[0].shape)


@field_rule("aten._cdist_forward", "aten._euclidean_dist")
def distances(op: Op, see: See) -> Intervals | None:
    one, other = see(op.args[0]), see(op.args[1])
    return product(one, other and other.transpose(-2, -1), op.outputs[0].shape, op.index)


def attend(
    query: Intervals | None,
    key: Intervals | None,
    value: Intervals | None,
    op: Op,
    shape: tuple[int, ...],
    causal: bool,
    kept: np.ndarray | None = None,
) -> Intervals | None:
    """softmax(Q K^T) V over (..., length, width): a query sees itself, every key, and every value.

    Queries and keys are summed along the width; the width of the values is that of the output. ``causal``
    or the mask ``kept`` (..., queries, keys) say which keys a query sees.
    """
    parts: list[Intervals | None] = [query and query.reduce([-1], op.index)]
    for rows in (key and key.reduce([-1], op.index), value):
        if rows is None:
            continue
        if len(shape) > 2 and rows.shape[-3] not in (1, shape[-3]):  # grouped queries share a head of keys
            rows = rows.repeat_each(-3, shape[-3] // rows.shape[-3])
        if causal:
            rows = rows.running(-2)
            if rows.shape[-2] != shape[-2]:
                rows = rows.take(-2, np.minimum(np.arange(shape[-2]), rows.shape[-2] - 1))
            parts.append(rows)
        else:
            parts.append(gathered(rows, kept, op.index))
    return union(parts, shape)


_ATTENTION = """
    _scaled_dot_product_{flash,efficient,cudnn}_attention _scaled_dot_product_flash_attention_for_cpu
    _scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps
    scaled_dot_product_attention
"""


@field_rule(*named(_ATTENTION), "flex_attention")
def attention(op: Op, see: See) -> list[Intervals | None]:
    """The output; then for some kernels log-sums of each query's scores, and states of a generator."""
    given, (query, key, value) = arguments(op), map(see, op.args[:3])
    causal = bool(given.get("is_causal", False))
    shape = op.outputs[0].shape
    masks = [see(given.get(name)) for name in ("attn_mask", "attn_bias")]
    by_query = [mask and mask.reduce([-1], op.index) for mask in masks]
    mask = given.get("attn_mask")
    boolean = isinstance(mask, TensorRef) and str(mask.dtype) == "torch.bool"
    kept = _but(see.zeros(mask) if boolean else see.lows(mask, -1))
    if kept is not None and boolean:
        kept = kept | ~kept.any(-1, keepdims=True)  # where all are masked, none is
    out = union([attend(query, key, value, op, shape, causal, kept), *by_query], shape)
    rows = (*shape[:-1], 1)
    scores = union([attend(query, key, None, op, rows, causal, kept), *by_query], rows)
    sums = scores and scores.squeeze(-1)
    return [out, *(sums if ref.shape == shape[:-1] else None for ref in op.outputs[1:])]


@field_rule("aten._native_multi_head_attention", "aten._transformer_encoder_layer_fwd")
def whole_layer(op: Op, see: See) -> list[Intervals | None]:
    """Fused layers over (batch, length, width): every position sees itself and all others."""
    count = 3 if "multi_head" in op.name else 1
    inputs = [see(ref) for ref in op.args[:count]]
    rows = [x and x.reduce([-1], op.index) for x in inputs]
    weights = [see(ref) for ref in refs((op.args[count:], op.kwargs))]
    found = []
    for ref in op.outputs:
        parts = [rows[0], *(x and x.reduce([-2], op.index) for x in rows)]
        parts += [x and x.everything(ref.shape, op.index) for x in weights]
        found.append(union(parts, ref.shape))
    return found
