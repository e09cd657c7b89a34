"""Operators without a rule: counted by PyTorch's tags and flop formulas, or unknown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from archcost.cost.registry import Count
from archcost.trace.graph import Argument, Op, TensorRef, refs
from archcost.trace.schema import find_overload

if TYPE_CHECKING:
    import torch
    from torch._ops import OpOverload

_VIEW = Count(0, 0, "view")


def classify(op: Op) -> Count:
    """The count of an operation without a rule: a view, by tags, by PyTorch's flop formulas, or unknown."""
    import torch

    if op.outputs and not op.writes and not op.reads:
        return _VIEW
    overload = find_overload(op.name)
    if overload is not None:
        # No tensor goes in, or a value is returned to Python.
        touches_tensors = any(True for _ in op.tensors()) and not op.name.startswith("aten.")
        if not op.outputs and not op.writes and not touches_tensors:
            return Count(0, 0, "other")
        if torch.Tag.pointwise in _tags(op.name):
            return Count(0, written(op), "pointwise")
        if torch.Tag.view_copy in _tags(op.name):
            return Count(0, 0, "movement")
        macs = _framework_macs(op, overload)
        if macs is not None:
            return Count(macs, None, "matmul", "no counting rule for its operations other than the products")
        shapes = [ref.shape for ref in op.tensors()]
        if not contracts(overload) and [out.shape for out in op.outputs] == [_broadcast(shapes)]:
            return Count(0, written(op), "pointwise")
    hint = 'add one with @archcost.rules.counting_rule("' + op.base.replace(".", "::", 1) + '")'
    return Count(None, None, "unknown", f"no counting rule for this operator; {hint}")


def written(op: Op) -> int:
    """Elements written: of the results, or of the first argument for in-place operators on lists."""
    return sum(out.numel for out in op.outputs or refs(op.args[0]))


@cache
def _tags(name: str) -> frozenset[torch.Tag]:
    """PyTorch's tags of an operator and of its functional form, since in-place and list forms lack some."""
    import torch

    namespace, plain, *_ = name.split(".")
    found = set(getattr(find_overload(name), "tags", ()))
    for form in (plain.removesuffix("_"), plain.removesuffix("_").removeprefix("_foreach_")):
        packet = getattr(getattr(torch.ops, namespace), form, None)
        found.update(tag for key in getattr(packet, "overloads", list)() for tag in getattr(packet, key).tags)
    return frozenset(found)


# Endings of words in the names of products and matrix functions.
_PRODUCTS = (
    *("linalg", "matrix", "cholesky", "qr", "inverse", "solve", "mm", "matmul", "attention", "outer"),
    *("inner", "dot", "kron", "ger", "addr", "mv", "trace"),
)


def contracts(overload: OpOverload) -> bool:
    """Whether an operator may contract dimensions; only PyTorch's element-wise ones are known not to."""
    schema = overload._schema
    names = {argument.name for argument in schema.arguments if "Tensor" in str(argument.type)}
    own = schema.name.startswith("aten::") and names <= {"self", "other"}
    words = schema.name.removeprefix("aten::").split("_")
    return not own or any(word.endswith(_PRODUCTS) for word in words)


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    import torch

    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        return None


def _framework_macs(op: Op, overload: OpOverload) -> int | None:
    from torch.utils.flop_counter import flop_registry

    formula = flop_registry.get(overload.overloadpacket)
    if formula is None:
        return None
    outputs = tuple(map(_on_meta, op.outputs))
    kwargs = {key: _on_meta(value) for key, value in op.kwargs.items()}
    out_val = outputs[0] if len(outputs) == 1 else outputs
    flops = formula(*map(_on_meta, op.args), **kwargs, out_val=out_val)
    return int(flops) // 2


_OnMeta: TypeAlias = "torch.Tensor | Argument | Sequence[_OnMeta]"


def _on_meta(value: Argument) -> _OnMeta:
    import torch

    if isinstance(value, TensorRef):
        return torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device="meta")
    if isinstance(value, tuple):
        return [_on_meta(item) for item in value]
    return value
