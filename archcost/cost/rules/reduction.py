"""Reductions: one operation per element read, and a division per result for means."""

from __future__ import annotations

from archcost.cost.rules.tables import given, made, without_macs
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _ordering(op: Op) -> int:
    """n log2 n comparisons along the sorted dimension, log2 rounded up."""
    x, named = op.args[0], arguments(op)
    whole = op.base in ("aten._unique2", "aten._unique") or (
        op.base in ("aten.median", "aten.nanmedian") and "dim" not in named
    )
    length = x.numel if whole or not x.shape else x.shape[named.get("dim", -1)]
    return int(x.numel * max(length - 1, 1).bit_length())


without_macs(
    "reduction",
    {
        """
        sum nansum prod amax amin max min argmax argmin aminmax _aminmax any all cumsum cumprod cummax cummin
        _cummax_helper _cummin_helper count_nonzero trace equal histc histogram bincount hash_tensor
        unique_consecutive unique_dim_consecutive _histogramdd_from_bin_{cts,tensors} _histogramdd_bin_edges
        _is_all_true _is_any_true segment_reduce _sparse_sum
        """: given,
        "mean nanmean": lambda op: given(op) + made(op),
        # The mean, then subtract, square and add.
        "var std var_mean std_mean": lambda op: 4 * given(op) + made(op),
        "logsumexp _logcumsumexp logcumsumexp": lambda op: 4 * given(op),
        "sort topk kthvalue median nanmedian mode _unique2 _unique unique_dim": _ordering,
    },
)
