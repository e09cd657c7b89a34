"""The table of dependence rules: which elements of its inputs each output element of an operator sees.

A rule takes an `Op` and ``see``, a function from a `TensorRef` to its `Intervals` (None: it does not
depend on the input), and returns the same for each output: one, a list of them, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from archcost.errors import ArchcostError
from archcost.fields.intervals.intervals import Intervals, union
from archcost.registry import load_plugins
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

_rules: dict[str, Rule] = {}
_sliding: set[str] = set()


def field_rule(*names: str, slides: bool = False) -> Callable[[Rule], Rule]:
    """Register a dependence rule for operators; a later one replaces an earlier one.

    Names are as in `archcost.counting_rule`: without an overload for all of them, in-place forms included.
    ``slides`` says that the operator moves a window over the last dimensions of its first argument.

    >>> @field_rule("mylib::scaled_add")
    ... def scaled_add(op, see):
    ...     return pointwise(op, see)
    """
    if not names or not all(isinstance(name, str) for name in names):
        raise ArchcostError('field_rule: name the operators, as in @field_rule("mylib::op")')

    def register(rule: Rule) -> Rule:
        for name in names:
            _rules[name.replace("::", ".")] = rule
            if slides:
                _sliding.add(name.replace("::", "."))
        rule_for.cache_clear()
        _is_sliding.cache_clear()
        return rule

    return register


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


@cache
def _names(name: str) -> tuple[str, ...]:
    """What a rule for an operator may be registered under, most special first."""
    return (*_forms(name), *_bases(name))


def _bases(name: str) -> tuple[str, str]:
    base = name.rpartition(".")[0] if name.count(".") > 1 else name
    return base, base.removesuffix("_")


@cache
def _forms(name: str) -> tuple[str, ...]:
    """An overload, and the ones that compute the same into a new tensor where it is in place or ``out=``."""
    plain, overload = _bases(name)[1], name.rpartition(".")[2]
    if overload == "out":
        return (name, f"{plain}.default", f"{plain}.Tensor")
    return (name, f"{plain}.{overload.removesuffix('_out')}")


@cache
def rule_for(name: str) -> Rule | None:
    """The rule of an operator; by the framework's own tags where none is registered; or None."""
    load_rules()
    for candidate in _names(name):
        if candidate in _rules:
            return _rules[candidate]
    import torch

    overloads = map(find_overload, _forms(name))
    if any(overload is not None and torch.Tag.pointwise in overload.tags for overload in overloads):
        return pointwise
    return None


@cache
def _is_sliding(name: str) -> bool:
    load_rules()
    return any(form in _sliding for form in _names(name))


def slides(op: Op) -> int:
    """The number of dimensions that the operator slides over; 0 where it is no window."""
    if not _is_sliding(op.name):
        return 0
    second = op.args[1] if len(op.args) > 1 else None
    if isinstance(second, TensorRef):
        return len(second.shape) - 2
    digits = [c for c in op.base if c.isdigit()]
    return int(digits[0]) if digits else len(op.args[0].shape) - 2


@lru_cache(maxsize=1)
def load_rules() -> None:
    """Import archcost's own rules, then those that installed packages announce."""
    from archcost.fields import rules

    own = dict(_rules)
    rules.load()
    load_plugins("archcost.field_rules", "dependence rules")
    _rules.update(own)  # what the user registered before the first analysis wins
