"""Reductions: one operation for each element read, and what each result needs on top."""

from __future__ import annotations

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


@counting_rule(
    *(f"aten.{name}" for name in ("sum", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "any")),
    *(f"aten.{name}" for name in ("all", "cumsum", "cumprod", "nansum", "count_nonzero", "aminmax", "trace")),
    *(f"aten.{name}" for name in ("cummax", "cummin", "_cummax_helper", "_cummin_helper", "equal", "histc")),
    *("aten.bincount", "aten.unique_consecutive", "aten.unique_dim_consecutive", "aten.hash_tensor"),
    *("aten.histogram", "aten._histogramdd_from_bin_cts", "aten._histogramdd_from_bin_tensors"),
    *(
        "aten._histogramdd_bin_edges",
        "aten._is_all_true",
        "aten._is_any_true",
        "aten.segment_reduce",
        "aten._aminmax",
        "aten._sparse_sum",
    ),
    kind="reduction",
)
def one_each(op: Op) -> tuple[int, int]:
    return 0, op.args[0].numel


@counting_rule("aten.mean", "aten.nanmean", kind="reduction")
def mean(op: Op) -> tuple[int, int]:
    return 0, op.args[0].numel + op.outputs[0].numel


@counting_rule("aten.var", "aten.std", "aten.var_mean", "aten.std_mean", kind="reduction")
def variance(op: Op) -> tuple[int, int]:
    # The mean, then subtract, square and add.
    return 0, 4 * op.args[0].numel + op.outputs[0].numel


@counting_rule("aten.logsumexp", "aten._logcumsumexp", "aten.logcumsumexp", kind="reduction")
def log_sum_exp(op: Op) -> tuple[int, int]:
    return 0, 4 * op.args[0].numel


@counting_rule(
    *("aten.sort", "aten.topk", "aten.kthvalue", "aten.median", "aten.nanmedian", "aten.mode"),
    *("aten._unique2", "aten._unique", "aten.unique_dim"),
    kind="reduction",
)
def ordering(op: Op) -> tuple[int, int]:
    """n log2 n comparisons along the dimension that is ordered, log2 rounded up."""
    x, given = op.args[0], arguments(op)
    whole = op.base in ("aten._unique2", "aten._unique") or (
        op.base in ("aten.median", "aten.nanmedian") and "dim" not in given
    )
    length = x.numel if whole or not x.shape else x.shape[given.get("dim", -1)]
    return 0, x.numel * max(length - 1, 1).bit_length()
