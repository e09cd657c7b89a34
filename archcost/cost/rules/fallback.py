"""Operators without a rule of their own: what the framework's own tables say of them, or unknown."""

from __future__ import annotations

from typing import Any

from archcost.cost.registry import Count
from archcost.trace.graph import Op, TensorRef
from archcost.trace.schema import find_overload


def classify(op: Op) -> Count:
    """By nature (a view, a value read back), by the framework's tags, by its flop formulas; else unknown."""
    import torch

    if op.outputs and not op.writes and not op.reads:
        return Count(0, 0, "view")
    overload = find_overload(op.name)
    if overload is not None:
        # Nothing goes in, or a value is handed back to Python.
        touches_tensors = any(True for _ in op.tensors()) and not op.name.startswith("aten.")
        if not op.outputs and not op.writes and not touches_tensors:
            return Count(0, 0, "other")
        if torch.Tag.pointwise in overload.tags:
            return Count(0, sum(out.numel for out in op.outputs), "pointwise")
        macs = _framework_macs(op, overload)
        if macs is not None:
            return Count(macs, None, "matmul", "its operations beside the products have no rule")
    hint = 'add one with @archcost.counting_rule("' + op.base.replace(".", "::", 1) + '")'
    return Count(None, None, "unknown", f"no counting rule for this operator; {hint}")


def _framework_macs(op: Op, overload: Any) -> int | None:
    from torch.utils.flop_counter import flop_registry

    formula = flop_registry.get(overload.overloadpacket)
    if formula is None:
        return None
    outputs = tuple(_on_meta(out) for out in op.outputs)
    flops = formula(
        *(_on_meta(arg) for arg in op.args),
        **{key: _on_meta(value) for key, value in op.kwargs.items()},
        out_val=outputs[0] if len(outputs) == 1 else outputs,
    )
    return int(flops) // 2


def _on_meta(value: Any) -> Any:
    import torch

    if isinstance(value, TensorRef):
        return torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device="meta")
    if isinstance(value, tuple):
        return [_on_meta(item) for item in value]
    return value
