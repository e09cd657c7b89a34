"""Tables of dependence rules for operators that depend on their first argument alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.registry import Fields, See, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments, named

OfFirst = Callable[[Intervals, Op], Fields]
F = TypeVar("F", bound=OfFirst)


def of_first(words: str, space: str = "aten", slides: bool = False) -> Callable[[F], F]:
    """Register a rule that takes the Intervals of the first argument; it is not called where they are None.

    ``words`` are operators, written as in `named`.
    """

    def register(rule: F) -> F:
        def of_op(op: Op, see: See) -> Fields:
            x = see(op.args[0])
            return None if x is None else rule(x, op)

        field_rule(*named(words, space), slides=slides)(of_op)
        return rule

    return register


def table(rows: dict[str, OfFirst]) -> None:
    """`of_first` for each row."""
    for words, rule in rows.items():
        of_first(words)(rule)


def shape_of(op: Op) -> tuple[int, ...]:
    """The shape of the first result."""
    return op.outputs[0].shape


def several(value: int | Sequence[int]) -> tuple[int, ...]:
    """A number or several numbers, as a tuple."""
    return (value,) if isinstance(value, int) else tuple(value)


def dim_of(op: Op, default: int = 0) -> int:
    """The argument ``dim``."""
    dim: int = arguments(op).get("dim", default)
    return dim
