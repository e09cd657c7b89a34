"""Rules of operators that see what their first argument sees, elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments, named

OfFirst = Callable[[Intervals, Op], Any]


def of_first(words: str, space: str = "aten", slides: bool = False) -> Callable[[OfFirst], OfFirst]:
    """Register a rule that gets the Intervals of the first argument, and is not asked where there are none.

    The operators are told as in `named`.
    """

    def register(rule: OfFirst) -> OfFirst:
        def of_op(op: Op, see: See) -> Any:
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


def several(value: Any) -> tuple[int, ...]:
    """One number, or several."""
    return (value,) if isinstance(value, int) else tuple(value)


def dim_of(op: Op, default: int = 0) -> Any:
    """The argument ``dim``."""
    return arguments(op).get("dim", default)
