"""Means, normalisations and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archcost.engine.graph import Value
from archcost.engine.operators import LayerNorm, Mean, Softmax
from archcost.engine.reading.registry import reads

if TYPE_CHECKING:
    from archcost.engine.reading.reader import Arguments, Reader


@reads("aten.mean")
def mean(reader: Reader, given: Arguments) -> Value | None:
    x = given.first
    if given.op.name != "aten.mean.dim" or given["dtype"] is not None:
        return None
    dims = given["dim"] or range(len(x.shape))
    return reader.add(
        Mean(tuple(sorted(dim % len(x.shape) for dim in dims)), given["keepdim"]), x, shape=given.shape
    )


@reads("aten.native_layer_norm")
def layer_norm(reader: Reader, given: Arguments) -> tuple[Value, ...] | None:
    x, weight, bias = given.first, given["weight"], given["bias"]
    if len(given["normalized_shape"]) != 1:
        return None
    if any(value is not None and value.constant is None for value in (weight, bias)):
        return None
    scale, shift = (None if value is None else value.constant for value in (weight, bias))
    return (reader.add(LayerNorm(-1, scale, shift, given["eps"]), x, shape=x.shape),)


@reads("aten._softmax", "aten.softmax")
def softmax(reader: Reader, given: Arguments) -> Value:
    x = given.first
    return reader.add(Softmax(given["dim"] % len(x.shape)), x, shape=x.shape)
