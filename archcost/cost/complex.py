"""Complex convolutions, which PyTorch decomposes into three real convolutions and sums.

With a = conv(Re x, Re w), b = conv(Im x, Im w) and c = conv(Re x + Im x, Re w + Im w) the result is
a - b + i (c - a - b) (``complex_convolution`` in ATen/native/Convolution.cpp). Counted is the definition,
whatever the algorithm: one MAC per complex product.
"""

from __future__ import annotations

from archcost.cost.registry import COMPLEX_FLOPS, Count
from archcost.trace.graph import Op

_AFTER = ["aten.add", "aten.mul", "aten.sub", "aten.sub", "aten.sub"]


def as_defined(ops: tuple[Op, ...], counts: list[Count]) -> list[Count]:
    """The counts, with those of a complex convolution put at the first of its three real convolutions."""
    for op, count in zip(ops, counts, strict=True):
        if count.kind != "convolution":
            continue
        found = _three_in_place_of_one(ops, counts, op)
        if found is None:
            continue
        first, last = found
        macs = counts[first].macs
        bias = ops[last].outputs[0].numel if counts[first].other_ops else 0
        for i in range(first, last + 1):
            counts[i] = Count(0, 0, counts[i].kind)
        counts[first] = Count(macs, bias, "convolution", flops_per_mac=COMPLEX_FLOPS)
    return counts


def _three_in_place_of_one(ops: tuple[Op, ...], counts: list[Count], third: Op) -> tuple[int, int] | None:
    """The first and last operation of the complex convolution whose third real convolution is ``third``."""
    after = ops[third.index + 1 : third.index + 6]
    if sorted(op.base for op in after) != _AFTER or not any(1j in op.args for op in after):
        return None
    read = {i for op in after for i in op.fed_by if i <= third.index}
    if len(read) != 3 or any(counts[i].kind != "convolution" for i in read):
        return None
    return min(read), after[-1].index
