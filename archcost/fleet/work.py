"""The work of a model on paper beside its layers, by the kinds that the law of a table tells apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BYTES", "WORK", "attention_macs", "work_of"]

BYTES = ("batch_norm", "layer_norm", "curve", "pool", "max_pool", "moved", "other")
"""Kinds of operations, by their bytes: normalisations, exponential functions, pooling, copies, others.
Maximum pooling counts each value as often as a window reads it, at 4 bytes."""
WORK = (*BYTES, "calls")
"""`BYTES`, and the number of operations."""
_CURVES = frozenset("gelu silu softmax sigmoid tanh exp".split())
_MOVED = frozenset("cat clone copy roll index stack constant_pad_nd".split())
# Measured as tasks of their own.
_PRODUCTS = frozenset("mm addmm bmm baddbmm".split())


def attention_macs(paper: Mapping[str, Any]) -> int:
    """The multiply-accumulates of attention in one operation."""
    return sum(macs for label, (_, _, macs) in paper["operations"].items() if "attention" in label)


def work_of(paper: Mapping[str, Any]) -> dict[str, float]:
    """The work of a model, see `archcost.fleet.paper.on_paper`, by `WORK`."""
    found = dict.fromkeys(WORK, 0.0)
    for label, (calls, moved, read) in paper["operations"].items():
        if label == "empty":
            continue  # nothing is read or written
        found["calls"] += calls
        if "max_pool" in label:
            found["max_pool"] += 4 * read
        elif "attention" not in label and label not in _PRODUCTS:
            found[_kind_of(label)] += moved
    return found


def _kind_of(label: str) -> str:
    if "norm" in label:
        return "batch_norm" if "batch_norm" in label else "layer_norm"
    if "pool" in label or label == "mean":
        return "pool"
    return "curve" if label in _CURVES else "moved" if label in _MOVED else "other"
