"""Operator: which arguments an operator of PyTorch writes, and how to run it; read once from its schema."""

from __future__ import annotations

from functools import cache

import torch
from torch._ops import OpOverload

from archcost.trace.graph import Args, Kwargs
from archcost.trace.recording.meta import FAST_META
from archcost.trace.recording.tensors import Written

# Operators that only alias a tensor, inserted by autograd.
_INVISIBLE = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}

# Operators that read the values of an argument on the CPU, whatever device the others are on.
_TAKES_VALUES = {torch.ops.aten._pack_padded_sequence.default}

# In-place operators that overwrite their first argument without reading it.
_OVERWRITES = {"copy_", "fill_", "zero_", "uniform_", "normal_", "bernoulli_", "random_", "exponential_"}

# Operators that write arguments their schema does not mark: (position of the flag, positions written).
_UNMARKED_WRITES = {
    "aten::native_batch_norm": (5, (3, 4)),
    "aten::cudnn_batch_norm": (5, (3, 4)),
    "aten::miopen_batch_norm": (5, (3, 4)),
}


class Operator:
    """An operator's name, the arguments that it writes, and whether it is made of other operators."""

    __slots__ = (
        *("composite", "fast", "invisible", "name", "overwrites", "resizes", "takes_values"),
        *("unmarked", "written", "written_names"),
    )

    def __init__(self, func: OpOverload) -> None:
        schema = getattr(func, "_schema", None)
        self.name = str(func)
        self.invisible = func in _INVISIBLE
        self.takes_values = func in _TAKES_VALUES
        self.fast = FAST_META.get(func)
        # Under inference_mode composite operators arrive whole. ``prim`` operators, which tensor subclasses
        # answer themselves, are not the dispatcher's.
        self.composite = (
            schema is not None
            and func.namespace != "prim"
            and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
        )
        self.resizes = False
        self.written: tuple[int, ...] = ()
        self.written_names: tuple[str, ...] = ()
        self.unmarked: tuple[int, tuple[int, ...]] | None = None
        self.overwrites = False
        # A higher-order operator has no schema; in-place views (transpose_) write no data.
        if schema is None or torch.Tag.inplace_view in func.tags:
            return
        written = [
            (i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write
        ]
        self.written = tuple(i for i, _ in written)
        self.written_names = tuple(name for _, name in written)
        self.unmarked = _UNMARKED_WRITES.get(schema.name)
        self.resizes = any(a.is_out for a in schema.arguments) or schema.name.endswith(("resize_", "::set_"))
        self.overwrites = schema.name.partition("::")[2] in _OVERWRITES or (
            bool(written) and all(schema.arguments[i].is_out for i, _ in written)
        )

    def writes(self, args: Args, kwargs: Kwargs) -> list[Written]:
        """The arguments that a call with these arguments writes into."""
        found = [args[i] for i in self.written if i < len(args)]
        if kwargs:
            found += [kwargs[name] for name in self.written_names if name in kwargs]
        if self.unmarked is not None and len(args) > self.unmarked[0] and args[self.unmarked[0]]:
            found += [args[i] for i in self.unmarked[1]]
        return found


@cache
def known_operator(func: OpOverload) -> Operator:
    """The `Operator` of an overload, made when it is first needed."""
    return Operator(func)
