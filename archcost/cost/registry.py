"""The table of counting rules: one small function an operator, open to everyone.

A rule takes an `Op` and returns a `Count`. A rule's name is the operator's, ``"aten.bmm"`` for all its
overloads or ``"aten.add.Tensor"`` for one, in-place forms included; ``"mylib::op"`` works as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from archcost.errors import ArchcostError
from archcost.registry import OperatorRegistry
from archcost.trace.graph import Op

KINDS = (
    *("convolution", "matmul", "attention", "recurrent", "norm", "activation", "pointwise", "pool"),
    *("reduction", "resize", "gather", "movement", "view", "creation", "other", "unknown"),
)


# A product and a sum; of complex numbers four products and two sums, and two sums.
REAL_FLOPS, COMPLEX_FLOPS = 2, 8


@dataclass(frozen=True, slots=True)
class Count:
    """What one operation costs: multiply-accumulates, and all other arithmetic operations.

    ``None`` is unknown, and ``reason`` says why; it is never the same as 0. ``flops_per_mac`` is 2, and 8
    for complex numbers (four products and four sums); left out, the dtype of the results decides.
    ``note`` says what the count assumes.
    """

    macs: int | None = 0
    other_ops: int | None = 0
    kind: str = "other"
    reason: str | None = None
    flops_per_mac: int | None = None
    note: str | None = None


Rule = Callable[[Op], "Count | tuple[int, int]"]

table: OperatorRegistry[tuple[Rule, str]] = OperatorRegistry(
    "counting rules", home="archcost.cost.rules", group="archcost.rules"
)


def counting_rule(*names: str, kind: str = "other") -> Callable[[Rule], Rule]:
    """Register a counting rule for operators; a later one replaces an earlier one.

    The rule gets an `Op` and returns ``(macs, other_ops)`` or a `Count`. ``kind`` is one of
    ``archcost.cost.registry.KINDS``.

    >>> @counting_rule("mylib::scaled_add", kind="pointwise")
    ... def scaled_add(op):
    ...     return 0, 2 * op.outputs[0].numel
    """
    if kind not in KINDS:
        raise ArchcostError(f"counting_rule: kind {kind!r} is unknown; take one of {', '.join(KINDS)}")
    by = sys._getframe(1).f_globals.get("__name__", "")
    return table.register("counting_rule", names, lambda rule: (rule, kind), by)
