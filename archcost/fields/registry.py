"""The registry of dependence rules: on which input elements each output element of an operator depends.

A rule takes an `Op` and ``see``, a function from a `TensorRef` to its `Intervals` (None: it does not
depend on the input), and returns Intervals or None for all outputs alike, or a list with an entry per output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from archcost.fields.intervals.intervals import Intervals, union
from archcost.registry import OperatorRegistry, forms
from archcost.trace.graph import Argument, Op, TensorRef, refs
from archcost.trace.schema import arguments, find_overload


class See(Protocol):
    """The function with which a rule looks up its tensors: their Intervals; None without input dependence.

    ``zeros`` are booleans that broadcast to the tensor's shape, true where it is known to be zero; ``lows``
    are true where a softmax along ``dim`` gives no weight (`archcost.fields.replay.masks`). None if unknown.
    """

    def __call__(self, ref: Argument, /) -> Intervals | None: ...

    def zeros(self, ref: Argument, /) -> np.ndarray | None: ...

    def lows(self, ref: Argument, dim: int, /) -> np.ndarray | None: ...


Fields: TypeAlias = Intervals | list[Intervals | None] | list[Intervals] | None
"""The Intervals of an operation's outputs: the same for all, or a list with an entry per output."""
Rule = Callable[[Op, See], Fields]
R = TypeVar("R", bound=Rule)

if TYPE_CHECKING:
    import numpy as np

table: OperatorRegistry[tuple[Rule, bool]] = OperatorRegistry(
    "dependence rules", home="archcost.fields.rules", group="archcost.field_rules"
)


def field_rule(*names: str, slides: bool = False) -> Callable[[R], R]:
    """Register a dependence rule for operators; a later rule replaces an earlier rule.

    Args:
        names: operators, as in `archcost.rules.counting_rule`: without overload for all overloads,
            in-place forms included.
        slides: whether the operator slides a window over the last dimensions of its first argument.

    Returns:
        A decorator for the rule: a function of an `Op` and `See`.

    Raises:
        ArchcostError: a name is not an operator's.

    >>> @field_rule("mylib::scaled_add")
    ... def scaled_add(op, see):
    ...     return pointwise(op, see)
    """
    by = sys._getframe(1).f_globals.get("__name__", "")
    return table.register("field_rule", names, lambda rule: (rule, slides), by)


def pointwise(op: Op, see: See) -> Intervals | None:
    """The rule of element-wise operators: an output element depends on the elements at its place."""
    return union([see(ref) for ref in sources(op)], op.outputs[0].shape)


def everything(op: Op, see: See, shape: Sequence[int]) -> Intervals | None:
    """Intervals of ``shape`` whose elements all depend on everything that any argument depends on."""
    seen = [x for x in map(see, sources(op)) if x is not None]
    return union([x.everything(shape, op.index) for x in seen], shape)


def sources(op: Op) -> Iterator[TensorRef]:
    """The tensor arguments of an operation, without ``out`` arguments."""
    if not outs(op.name):
        return op.tensors()
    return refs([value for name, value in arguments(op).items() if name not in outs(op.name)])


def first(op: Op, see: See) -> Intervals | None:
    """The rule of operators whose output elements depend on the first argument's element at their place."""
    return see(op.args[0])


@cache
def outs(name: str) -> frozenset[str]:
    """The names of an operator's ``out`` arguments."""
    overload = find_overload(name)
    return (
        frozenset() if overload is None else frozenset(a.name for a in overload._schema.arguments if a.is_out)
    )


def rule_for(name: str) -> Rule | None:
    """The registered rule of an operator, or `pointwise` if PyTorch tags it as such, or None."""
    found = table.find(name)
    return found[0] if found is not None else pointwise if _is_pointwise(name) else None


@cache
def _is_pointwise(name: str) -> bool:
    import torch

    overloads = map(find_overload, forms(name))
    return any(overload is not None and torch.Tag.pointwise in overload.tags for overload in overloads)


def slides(op: Op) -> int:
    """The number of dimensions over which an operation slides a window; 0 for other operations."""
    _, is_window = table.find(op.name) or (None, False)
    if not is_window:
        return 0
    second = op.args[1] if len(op.args) > 1 else None
    if isinstance(second, TensorRef):
        return len(second.shape) - 2
    digits = [c for c in op.base if c.isdigit()]
    return int(digits[0]) if digits else len(op.args[0].shape) - 2
