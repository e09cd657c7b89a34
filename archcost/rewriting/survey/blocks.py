"""Blocks: modules of a model that sum branches of one input, and may be replaced as a whole."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from archcost.merging.branches import Branches, branches_of
from archcost.merging.chain import Kept, Step
from archcost.rewriting.survey.movable import others, why_fixed
from archcost.rewriting.survey.subjects import Pass, Subject
from archcost.trace.graph import ModuleCall

__all__ = ["MOST_MACS", "block_around", "read_block"]

MOST_MACS = 1.5
"""One kernel with so many times the MACs of the layers that it stands for may still take less time."""

Block = tuple[ModuleCall, Branches]

# By a pass, what was read of it; the values hold no pass, so that they go with it.
_read: WeakKeyDictionary[Pass, dict[str, Block | str]] = WeakKeyDictionary()
_calls: WeakKeyDictionary[Pass, dict[str, list[ModuleCall]]] = WeakKeyDictionary()
_SEVERAL = "it does not run one convolution a call"


def block_around(subject: Subject) -> tuple[str, str] | str | None:
    """The module whose branches a convolution is one of, and the first of them by definition.

    The largest whose tail convolves nothing, else the smallest. In words why not, where a module around it
    sums branches that no single convolution can; None where none does.
    """
    around = subject.around
    parts = subject.name.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    found: list[tuple[str, Branches]] = []
    why: str | None = None
    for name in names:
        made = read_block(around, name)
        if isinstance(made, str):
            why = why or (f"{name} {made}" if _sums(around, name) else None)
        elif made[1].additions and subject.name in _firsts(around, made[1].convolutions):
            grown = _growth(around, *made)
            if grown <= MOST_MACS:
                found.append((name, made[1]))
            else:
                why = why or f"as one convolution, {name} would have {grown:.1f} times its MACs"
    if not found:
        return why
    bare = [one for one in found if not any(isinstance(step, Kept) for step in one[1].tail)]
    name, branches = bare[-1] if bare else found[0]
    firsts = _firsts(around, branches.convolutions)
    return name, min(firsts, key=list(others(around)).index)


def read_block(around: Pass, name: str) -> Block | str:
    """The first call of a module and what all of its calls compute; or why not, in words after its name."""
    known = _read.setdefault(around, {})
    if name not in known:
        known[name] = _block(around, name)
    return known[name]


def _block(around: Pass, name: str) -> Block | str:
    trace, model = around.trace, around.model
    if name not in trace.modules:
        return "is no module of the model by its first name"
    calls = _calls_of(around, name)
    if not calls:
        return "is not called"
    read: list[Branches] = []
    for call in calls:
        one = branches_of(trace, model, call, around.users)
        if isinstance(one, str):
            return one
        read.append(one)
    first = read[0]
    if any(one.whole != first.whole or len(one.tail) != len(first.tail) for one in read):
        return "does not compute the same in all of its calls"
    fixed = _takes_more(model.get_submodule(name)) or why_fixed(around, name)
    if fixed is not None:
        return fixed
    known = others(around)
    for conv in _firsts(around, first.convolutions):
        if conv not in known or known[conv].refusal not in (None, _SEVERAL):
            return f"holds {conv}, and {known[conv].refusal if conv in known else 'it is not its own'}"
    tail = tuple(_under(around, name, step) for step in first.tail)
    if None in tail:
        return "calls a module behind the sum that is not its own"
    return calls[0], Branches(first.whole, tail, first.convolutions, first.additions)  # type: ignore[arg-type]


def _growth(around: Pass, call: ModuleCall, branches: Branches) -> float:
    """MACs as one convolution, over those of all of its own."""
    known = others(around)
    own = sum(known[name].spec.macs for name in _firsts(around, branches.convolutions) if known[name].specs)
    x = call.inputs[0]
    return branches.whole.spec(x.shape[2:], x.shape[0]).macs / own if own else 1.0


def _firsts(around: Pass, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(around.names.get(name, name) for name in names))


def _under(around: Pass, block: str, step: Step) -> Step | None:
    """A kept module by the name that it has inside the block."""
    if not isinstance(step, Kept):
        return step
    first = around.names.get(step.name, step.name)
    names = (first, *around.trace.modules[first].aliases) if first in around.trace.modules else ()
    inside = [name for name in names if name.startswith(f"{block}.")]
    return Kept(inside[0]) if inside else None


def _takes_more(module: nn.Module) -> str | None:
    try:
        given: Any = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return "has a forward that cannot be looked into"
    if len(given) != 1:
        return f"has a forward of {len(given)} arguments, and one convolution takes one"
    return None


def _sums(around: Pass, name: str) -> bool:
    """Whether a call of it adds tensors of one shape, by its own code."""
    for call in _calls_of(around, name):
        for op in around.trace.ops[call.first_op : call.end_op]:
            if op.call == call.index and op.base in ("aten.add", "aten.add_"):
                return True
    return False


def _calls_of(around: Pass, name: str) -> list[ModuleCall]:
    if around not in _calls:
        made = _calls[around] = defaultdict(list)
        for call in around.trace.calls:
            made[around.names.get(call.module, call.module)].append(call)
    return _calls[around].get(name, [])
