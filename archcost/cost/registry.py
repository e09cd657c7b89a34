"""The table of counting rules: one small function an operator, open to everyone.

A rule takes an `Op` and returns a `Count`. A rule's name is the operator's, ``"aten.bmm"`` for all its
overloads or ``"aten.add.Tensor"`` for one, in-place forms included; ``"mylib::op"`` works as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from archcost.errors import ArchcostError
from archcost.registry import load_plugins
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

_rules: dict[str, tuple[Rule, str]] = {}


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
    if not names or not all(isinstance(name, str) for name in names):
        raise ArchcostError('counting_rule: name the operators, as in @counting_rule("mylib::op")')

    def register(rule: Rule) -> Rule:
        for name in names:
            _rules[name.replace("::", ".")] = (rule, kind)
        _rule_for.cache_clear()
        return rule

    return register


def count(op: Op) -> Count:
    """The count of one operation; unknown, with the reason, where no rule knows it."""
    load_rules()
    rule, kind = _rule_for(op.name)
    try:
        result = _fallback(op) if rule is None else rule(op)
        if not isinstance(result, Count):
            macs, other_ops = result
            result = Count(macs, other_ops, kind)
    except Exception as error:  # a rule meets a call it does not understand: that is an unknown as well
        return Count(None, None, "unknown", f"its rule failed: {type(error).__name__}: {error}")
    if None in (result.macs, result.other_ops) and result.reason is None:
        result = replace(result, reason="its rule says that it is not known")
    if result.flops_per_mac is None and result.macs != 0:
        is_complex = any(out.dtype.is_complex for out in op.outputs)
        result = replace(result, flops_per_mac=COMPLEX_FLOPS if is_complex else REAL_FLOPS)
    return result


def _fallback(op: Op) -> Count:
    from archcost.cost.rules.fallback import classify

    return classify(op)


@cache
def _rule_for(name: str) -> tuple[Rule | None, str]:
    base, _, overload = name.rpartition(".") if name.count(".") > 1 else (name, "", "")
    plain = base.removesuffix("_")
    for candidate in (name, f"{plain}.{overload}", base, plain):
        if candidate in _rules:
            return _rules[candidate]
    return None, "unknown"


@lru_cache(maxsize=1)
def load_rules() -> None:
    """Import archcost's own rules, then those that installed packages announce."""
    from archcost.cost import rules

    own = dict(_rules)
    rules.load()
    load_plugins("archcost.rules", "counting rules")
    _rules.update(own)  # what the user registered before the first analysis wins
    _rule_for.cache_clear()
