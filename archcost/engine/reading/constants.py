"""Constants: tensors that a forward writes down, or that its modules hold as attributes.

The Trace has their places but not their values, which two passes of the model itself give. What differs from
one pass to the next is no constant.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archcost.trace.call import Call
from archcost.trace.graph import Op, TensorRef, Trace

__all__ = ["Constants", "constants_of"]

Constants = dict[TensorRef, Tensor]
"""Values by how the trace reads them first."""

_Kind = tuple[str, tuple[tuple[int, ...], ...]]


def constants_of(model: nn.Module, call: Call, trace: Trace) -> Constants:
    """Values of the trace's constants, as far as they are the same in both passes.

    Args:
        model: in evaluation mode.
        call: the call that was traced.
        trace: the trace.
    """
    wanted: dict[tuple[_Kind, int], Op] = {}
    counted = Counter[_Kind]()
    for op in trace.ops:
        kind = (op.name, tuple(ref.shape for ref in op.tensors()))
        counted[kind] += 1
        if any(_constant(trace, ref) for ref in op.tensors()):
            wanted[kind, counted[kind]] = op
    if not wanted:
        return {}
    first, second = (_seen(model, call, trace, wanted) for _ in range(2))
    return {
        ref: one
        for ref, one in first.items()
        if ref in second and torch.equal(one.nan_to_num(), second[ref].nan_to_num())
    }


def _constant(trace: Trace, ref: TensorRef) -> bool:
    return trace.storages[ref.storage].origin == "constant"


def _seen(model: nn.Module, call: Call, trace: Trace, wanted: dict[tuple[_Kind, int], Op]) -> Constants:
    """The tensors that operators are given in a pass, matched by kind and order with those of the trace."""
    found: Constants = {}
    counted = Counter[_Kind]()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            kind = (str(operator), tuple(tuple(one.shape) for one in given))
            counted[kind] += 1
            if op := wanted.get((kind, counted[kind])):
                for ref, one in zip(op.tensors(), given, strict=True):
                    if _constant(trace, ref) and ref not in found and one.dtype is ref.dtype:
                        found[ref] = one.detach().clone()
            return operator(*args, **(kwargs or {}))

    args, kwargs = call.cloned()
    with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
        model(*args, **kwargs)
    return found
