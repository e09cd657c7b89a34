"""The registry of counting rules: a function per operator, which users and packages can add to.

A rule takes an `Op` and returns a `Count`. It is registered by the operator's name: ``"aten.bmm"`` for all
overloads, ``"aten.add.Tensor"`` for a single overload, in-place forms included; ``"mylib::op"`` works too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from archcost.errors import ArchcostError
from archcost.registry import OperatorRegistry
from archcost.trace.graph import Op

KINDS = (
    *("convolution", "matmul", "attention", "recurrent", "norm", "activation", "pointwise", "pool"),
    *("reduction", "resize", "gather", "movement", "view", "creation", "other", "unknown"),
)


# A real MAC is a product and a sum; a complex MAC is four products and four sums.
REAL_FLOPS, COMPLEX_FLOPS = 2, 8


@dataclass(frozen=True, slots=True)
class Count:
    """The count of one operation: its MACs, and all other arithmetic operations.

    None is unknown (not 0), and ``reason`` says why. ``flops_per_mac`` is 2, or 8 for complex numbers (four
    products and four sums); by default the dtype of the results decides. ``note`` is an assumption of the
    count, in words.
    """

    macs: int | None = 0
    other_ops: int | None = 0
    kind: str = "other"
    reason: str | None = None
    flops_per_mac: int | None = None
    note: str | None = None


Rule = Callable[[Op], "Count | tuple[int, int]"]
R = TypeVar("R", bound=Rule)

table: OperatorRegistry[tuple[Rule, str]] = OperatorRegistry(
    "counting rules", home="archcost.cost.rules", group="archcost.rules"
)


def counting_rule(*names: str, kind: str = "other") -> Callable[[R], R]:
    """Register a counting rule for operators; a later rule replaces an earlier one.

    Args:
        names: operators, ``"mylib::op"`` or ``"aten.add.Tensor"``.
        kind: the kind of operation, an entry of ``archcost.cost.registry.KINDS``.

    Returns:
        A decorator for the rule: a function that takes an `Op` and returns ``(macs, other_ops)`` or a
        `Count`.

    Raises:
        ArchcostError: there is no such kind, or a name is not an operator's.

    >>> @counting_rule("mylib::scaled_add", kind="pointwise")
    ... def scaled_add(op):
    ...     return 0, 2 * op.outputs[0].numel
    """
    if kind not in KINDS:
        raise ArchcostError(f"counting_rule: unknown kind {kind!r}; the kinds are {', '.join(KINDS)}")
    by = sys._getframe(1).f_globals.get("__name__", "")
    return table.register("counting_rule", names, lambda rule: (rule, kind), by)
