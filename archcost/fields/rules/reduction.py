"""Reductions, orderings and transforms: the hull along their dimensions."""

from __future__ import annotations

from typing import Any

from archcost.fields.intervals import Intervals
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _dims(op: Op) -> Any:
    """The dimensions of a reduction; None is all of them."""
    given = arguments(op)
    for name in ("dim", "dims", "axis"):
        if name in given and given[name] is not None and not isinstance(given[name], str):
            return given[name]
    return None


@field_rule(
    *(f"aten.{name}" for name in ("sum", "prod", "amax", "amin", "argmax", "argmin", "any", "all", "mean")),
    *(
        f"aten.{name}"
        for name in ("nansum", "nanmean", "count_nonzero", "logsumexp", "var", "std", "aminmax")
    ),
    *(f"aten.{name}" for name in ("var_mean", "std_mean", "linalg_vector_norm", "norm", "max", "min")),
    *(f"aten.{name}" for name in ("median", "nanmedian", "mode", "kthvalue")),
)
def reduction(op: Op, see: See) -> Any:
    """One or two outputs, each over the same dimensions."""
    x = see(op.args[0])
    if x is None:
        return None
    if op.name.endswith((".other", ".binary")):  # max of two tensors
        from archcost.fields.registry import pointwise

        return pointwise(op, see)
    dims = _dims(op)
    if dims is None and op.base in ("aten.kthvalue", "aten.mode"):
        dims = -1
    keepdim = len(op.outputs[0].shape) == x.rank
    reduced = x.reduce(dims, op.index, keepdim=keepdim)
    return [reduced] * len(op.outputs)


@field_rule("aten.max.other", "aten.min.other")
def larger(op: Op, see: See) -> Intervals | None:
    from archcost.fields.registry import pointwise

    return pointwise(op, see)


@field_rule(
    *(f"aten.{name}" for name in ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "_logcumsumexp")),
)
def running(op: Op, see: See) -> Any:
    x = see(op.args[0])
    if x is None:
        return None
    dim = arguments(op).get("dim", -1)
    return [x.running(dim)] * len(op.outputs)


@field_rule(
    *("aten._softmax", "aten._log_softmax", "aten._safe_softmax", "aten.softmax", "aten.log_softmax"),
    *("aten._masked_softmax", "quantized.softmax"),
)
def softmax(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    dim = arguments(op).get("dim", -1)
    return x.mixed(-1 if dim is None else dim, op.index)


@field_rule("aten.sort", "aten.argsort")
def sort(op: Op, see: See) -> Any:
    x = see(op.args[0])
    if x is None:
        return None
    dim = arguments(op).get("dim", -1)
    return [_hull(x, dim, op)] * len(op.outputs)


@field_rule("aten.topk")
def topk(op: Op, see: See) -> Any:
    x = see(op.args[0])
    if x is None:
        return None
    dim = arguments(op).get("dim", -1)
    return [x.reduce([dim], op.index).expand(ref.shape) for ref in op.outputs]


def _hull(x: Intervals, dims: Any, op: Op) -> Intervals:
    """The hull along ``dims``, for every element along them."""
    return x.reduce(dims, op.index).expand(x.shape)


@field_rule("aten._fft_r2c", "aten._fft_c2c", "aten._fft_c2r")
def fourier(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.reduce(op.args[1], op.index).expand(op.outputs[0].shape)


@field_rule(
    *("aten._local_scalar_dense", "aten.item", "aten.is_nonzero", "aten.equal", "aten._assert_async"),
    *("aten._assert_scalar", "aten.sym_constrain_range_for_size", "aten._functional_assert_async"),
    "aten.record_stream",
)
def read_back(op: Op, see: See) -> None:
    """A value handed to Python: what it decides there is not seen here."""
    return None


@field_rule(
    *("aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "aten.nonzero", "aten.masked_select"),
    *("aten.bincount", "aten.histc", "aten.trace", "aten.nonzero_static"),
)
def of_everything(op: Op, see: See) -> Any:
    """What each output element is, and how many there are, depends on all values."""
    from archcost.trace.graph import refs

    seen = [x for x in map(see, refs(op.args)) if x is not None]
    if not seen:
        return None
    out = []
    for ref in op.outputs:
        parts = [x.everything(ref.shape, op.index) for x in seen]
        from archcost.fields.intervals import union

        out.append(union(parts, ref.shape))
    return out
