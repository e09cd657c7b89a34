"""The kernels of convolutions and poolings in a few characters: ``3x3/2, groups 32``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from archcost.cost.costs import OpCost
from archcost.report.units import axes_text
from archcost.trace.graph import Op, PackedWeights
from archcost.trace.schema import arguments

__all__ = ["kernels_of"]

# Different kernels of a module that are named.
_MOST = 2

_Sizes: TypeAlias = "int | Sequence[int] | None"


def kernels_of(operations: Iterable[OpCost]) -> dict[str, str]:
    """The kernels that each module applies itself, by its name."""
    found: dict[str, dict[str, None]] = {}
    for cost in operations:
        if cost.kind in ("convolution", "pool") and (text := _text(cost.op)):
            found.setdefault(cost.module, {})[text] = None
    return {
        name: ", ".join([*list(texts)[:_MOST], *["..."] * (len(texts) > _MOST)])
        for name, texts in found.items()
    }


def _text(op: Op) -> str:
    """Kernel and stride, and dilation and groups where they are not 1; empty where there is no kernel."""
    given = arguments(op)
    packed = next((arg for arg in op.args if isinstance(arg, PackedWeights)), None)
    weight = packed or given.get("weight")
    kernel = given.get("kernel_size") if weight is None else weight.shape[2:]
    stride = given.get("stride") if packed is None else packed.stride
    if weight is None and not stride:
        stride = kernel
    dilation = given.get("dilation") if packed is None else packed.dilation
    groups = given.get("groups", 1) if packed is None else packed.groups
    sizes = _each(kernel)
    if not sizes:
        return ""
    moved, spread = _each(stride), _each(dilation)
    text = "x".join(map(str, sizes * 2 if len(sizes) == 1 and "2d" in op.name else sizes))
    text += f"/{axes_text(moved)}" if any(step > 1 for step in moved) else ""
    text += ", transposed" if given.get("transposed") or "transpose" in op.name else ""
    text += f", dilation {axes_text(spread)}" if any(step > 1 for step in spread) else ""
    return text + (f", groups {groups}" if groups > 1 else "")


def _each(values: _Sizes) -> tuple[int, ...]:
    return () if values is None else (values,) if isinstance(values, int) else tuple(values)
