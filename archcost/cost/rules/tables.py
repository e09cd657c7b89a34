"""Tables of rules: families of operators, each with the formula of its count."""

from __future__ import annotations

from collections.abc import Callable

from archcost.cost.registry import Count, counting_rule
from archcost.trace.graph import Op
from archcost.trace.schema import named


def table(kind: str, rows: dict[str, Callable[[Op], Count | tuple[int, int]]], space: str = "aten") -> None:
    """Register a counting rule for each row: operators, written as in `named`, and their formula."""
    for words, rule in rows.items():
        counting_rule(*named(words, space), kind=kind)(rule)


def without_macs(kind: str, rows: dict[str, Callable[[Op], int]], space: str = "aten") -> None:
    """`table` for operators without MACs: the formulas return `other_ops` alone."""
    table(kind, {words: _other_ops(formula) for words, formula in rows.items()}, space)


def _other_ops(formula: Callable[[Op], int]) -> Callable[[Op], tuple[int, int]]:
    return lambda op: (0, formula(op))


def made(op: Op) -> int:
    """The number of elements of the first result."""
    return op.outputs[0].numel


def given(op: Op) -> int:
    """The number of elements of the first argument."""
    return int(op.args[0].numel)
