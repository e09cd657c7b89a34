"""The table of dependence rules: which elements of its inputs each output element of an operator sees.

A rule takes an `Op` and ``see``, a function from a `TensorRef` to its `Intervals` (None: it does not
depend on the input), and returns the same for each output: one, a list of them, or None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from archcost.fields.intervals.intervals import Intervals, union
from archcost.registry import OperatorRegistry, forms
from archcost.trace.graph import Op, TensorRef, refs
from archcost.trace.schema import arguments, find_overload


class See(Protocol):
    """Look up the Intervals of a tensor for the operation in hand; None where it sees nothing of the input.

    ``zeros`` says where it is known to be zero, ``lows`` where a softmax along ``dim`` gives it no weight, as
    booleans that broadcast to its shape (`archcost.fields.replay.masks`); None where that is not known.
    """

    def __call__(self, ref: Any, /) -> Intervals | None: ...

    def zeros(self, ref: Any, /) -> np.ndarray | None: ...

    def lows(self, ref: Any, dim: int, /) -> np.ndarray | None: ...


Rule = Callable[[Op, See], Any]

if TYPE_CHECKING:
    import numpy as np

table: OperatorRegistry[tuple[Rule, bool]] = OperatorRegistry(
    "dependence rules", home="archcost.fields.rules", group="archcost.field_rules"
)


def field_rule(*names: str, slides: bool = False) -> Callable[[Rule], Rule]:
    """Register a dependence rule for operators; a later one replaces an earlier one.

    Names are as in `archcost.rules.counting_rule`: without an overload for all, in-place forms included.
    ``slides`` says that the operator moves a window over the last dimensions of its first argument.

    >>> @field_rule("mylib::scaled_add")
    ... def scaled_add(op, see):
    ...     return pointwise(op, see)
    """
    by = sys._getframe(1).f_globals.get("__name__", "")
    return table.register("field_rule", names, lambda rule: (rule, slides), by)


def pointwise(op: Op, see: See) -> Intervals | None:
    """Every output element sees the elements of all arguments that are broadcast to its place."""
    return union([see(ref) for ref in sources(op)], op.outputs[0].shape)


def everything(op: Op, see: See, shape: Sequence[int]) -> Intervals | None:
    """Every element of ``shape`` sees all that any argument does."""
    seen = [x for x in map(see, sources(op)) if x is not None]
    return union([x.everything(shape, op.index) for x in seen], shape)


def sources(op: Op) -> Iterator[TensorRef]:
    """The tensors that an operation reads: all arguments but those that say where its result is put."""
    if not outs(op.name):
        return op.tensors()
    return refs([value for name, value in arguments(op).items() if name not in outs(op.name)])


def first(op: Op, see: See) -> Intervals | None:
    """Every output element sees the element of the first argument at its own place."""
    return see(op.args[0])


@cache
def outs(name: str) -> frozenset[str]:
    """The arguments of an operator that it only writes its result into."""
    overload = find_overload(name)
    return (
        frozenset() if overload is None else frozenset(a.name for a in overload._schema.arguments if a.is_out)
    )


def rule_for(name: str) -> Rule | None:
    """The rule of an operator; by the framework's own tags where none is registered; or None."""
    found = table.find(name)
    return found[0] if found is not None else pointwise if _is_pointwise(name) else None


@cache
def _is_pointwise(name: str) -> bool:
    import torch

    overloads = map(find_overload, forms(name))
    return any(overload is not None and torch.Tag.pointwise in overload.tags for overload in overloads)


def slides(op: Op) -> int:
    """The number of dimensions that the operator slides over; 0 where it is no window."""
    _, is_window = table.find(op.name) or (None, False)
    if not is_window:
        return 0
    second = op.args[1] if len(op.args) > 1 else None
    if isinstance(second, TensorRef):
        return len(second.shape) - 2
    digits = [c for c in op.base if c.isdigit()]
    return int(digits[0]) if digits else len(op.args[0].shape) - 2
