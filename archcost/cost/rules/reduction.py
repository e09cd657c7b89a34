"""Reductions: one operation for each element read, and what each result needs on top."""

from __future__ import annotations

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op


@counting_rule(
    *(f"aten.{name}" for name in ("sum", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "any")),
    *(f"aten.{name}" for name in ("all", "cumsum", "cumprod", "nansum", "count_nonzero", "aminmax", "trace")),
    *(f"aten.{name}" for name in ("cummax", "cummin", "_cummax_helper", "_cummin_helper", "equal", "histc")),
    *("aten.bincount", "aten.cumulative_trapezoid"),
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


@counting_rule("aten.sort", "aten.argsort", "aten.topk", "aten.kthvalue", "aten.median", kind="reduction")
def ordering(op: Op) -> tuple[int, int]:
    # n log2 n comparisons along the last dimension.
    length = op.args[0].shape[-1] if op.args[0].shape else 1
    return 0, op.args[0].numel * max(length - 1, 1).bit_length()
