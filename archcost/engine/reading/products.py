"""Linear layers, matrix products and attention."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import torch

from archcost.engine.graph import Value
from archcost.engine.operators import Attention, Linear, MatMul
from archcost.engine.reading.registry import reads

if TYPE_CHECKING:
    from archcost.engine.reading.reader import Arguments, Reader


@reads("aten.addmm")
def addmm(reader: Reader, given: Arguments) -> Value | None:
    bias, x, weight = given["self"], given["mat1"], given["mat2"]
    if weight.constant is None or bias.constant is None or (given["beta"], given["alpha"]) != (1, 1):
        return None
    if bias.shape != weight.shape[1:]:
        return None
    return reader.add(Linear(weight.constant.t(), bias.constant), x, shape=given.shape)


@reads("aten.linear")
def linear(reader: Reader, given: Arguments) -> Value | None:
    x, weight, bias = given["input"], given["weight"], given["bias"]
    if weight.constant is None or (bias is not None and bias.constant is None):
        return None
    return reader.add(Linear(weight.constant, None if bias is None else bias.constant), x, shape=given.shape)


@reads("aten.mm", "aten.bmm", "aten.matmul")
def product(reader: Reader, given: Arguments) -> Value | None:
    a, b = given.first, given["other" if given.op.base == "aten.matmul" else "mat2"]
    if min(len(a.shape), len(b.shape)) < 2:
        return None
    if b.constant is not None and len(b.shape) == 2:
        return reader.add(Linear(b.constant.t(), None), a, shape=given.shape)
    return reader.add(MatMul(), a, b, shape=given.shape)


@reads(
    "aten.scaled_dot_product_attention",
    "aten._scaled_dot_product_attention_math",
    "aten._scaled_dot_product_flash_attention_for_cpu",
)
def attention(reader: Reader, given: Arguments) -> tuple[Value, ...] | None:
    q, k, v, mask = given["query"], given["key"], given["value"], given["attn_mask"]
    if len(q.shape) != 4 or given["dropout_p"] or k.shape[1] != q.shape[1]:
        return None
    if given["is_causal"]:
        later = torch.full((q.shape[2], k.shape[2]), -inf, dtype=torch.float64).triu(1)
        mask = Value(tuple(later.shape), later)
    if mask is not None and mask.dtype is torch.bool:
        if mask.constant is None or not bool(mask.constant.any(-1).all()):
            return None  # rows that see nothing are zeros
        added = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask.constant, -inf)
        mask = Value(mask.shape, added, mask.state)
    elif mask is not None and not mask.dtype.is_floating_point:
        return None
    scale = given["scale"] if given["scale"] is not None else q.shape[-1] ** -0.5
    inputs = (q, k, v) if mask is None else (q, k, v, mask)
    return (reader.add(Attention(float(scale)), *inputs, shape=given.shape),)
