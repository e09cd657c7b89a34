"""Blocks: modules of a model that sum branches of one input, and may be replaced as a whole."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from archcost.errors import Refusal
from archcost.merging.branches import Branches, branches_of
from archcost.merging.chain import ChainStep, Kept
from archcost.rewriting.survey.movable import why_fixed
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.trace.graph import ModuleCall

__all__ = ["MOST_MACS", "block_around", "read_block"]

MOST_MACS = 1.5
"""One kernel with so many times the MACs of the layers that it stands for may still take less time."""

Block = tuple[ModuleCall, Branches]


def block_around(subject: Subject) -> tuple[str, str] | Refusal | None:
    """The module whose branches a convolution is one of, and the first of them by definition.

    The largest whose tail convolves nothing, else the smallest. In words why not, where a module around it
    sums branches that no single convolution can; None where none does.
    """
    survey = subject.survey
    parts = subject.name.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    found: list[tuple[str, Branches]] = []
    why: str | None = None
    for name in names:
        made = read_block(survey, name)
        if isinstance(made, Refusal):
            why = why or (f"{name} {made}" if _sums(survey, name) else None)
        elif made[1].additions and subject.name in _firsts(survey, made[1].convolutions):
            grown = _growth(survey, *made)
            if grown <= MOST_MACS:
                found.append((name, made[1]))
            else:
                why = why or f"as one convolution, {name} would have {grown:.1f} times its MACs"
    if not found:
        return None if why is None else Refusal(why)
    bare = [one for one in found if not any(isinstance(step, Kept) for step in one[1].tail)]
    name, branches = bare[-1] if bare else found[0]
    firsts = _firsts(survey, branches.convolutions)
    return name, min(firsts, key=list(survey.neighbours).index)


def read_block(survey: Survey, name: str) -> Block | Refusal:
    """The first call of a module and what all of its calls compute; or why not, in words after its name."""
    return survey.once(_block, name)


def _block(survey: Survey, name: str) -> Block | Refusal:
    if name not in survey.trace.modules:
        return Refusal("is no module of the model by its first name")
    calls = survey.flow.calls(name)
    if not calls:
        return Refusal("is not called")
    read: list[Branches] = []
    for call in calls:
        one = branches_of(survey.flow, survey.model, call)
        if isinstance(one, Refusal):
            return one
        read.append(one)
    first = read[0]
    if any(one.whole != first.whole or len(one.tail) != len(first.tail) for one in read):
        return Refusal("does not compute the same in all of its calls")
    fixed = _takes_more(survey.model.get_submodule(name)) or why_fixed(survey, name)
    if fixed is not None:
        return Refusal(fixed)
    known = survey.neighbours
    for conv in _firsts(survey, first.convolutions):
        refusal = known[conv].refusal if conv in known else Refusal("it is not its own")
        if refusal is not None and refusal.kind != "calls":
            return Refusal(f"holds {conv}, and {refusal}")
    tail = tuple(_under(survey, name, step) for step in first.tail)
    if None in tail:
        return Refusal("calls a module behind the sum that is not its own")
    return calls[0], Branches(first.whole, tail, first.convolutions, first.additions)  # type: ignore[arg-type]


def _growth(survey: Survey, call: ModuleCall, branches: Branches) -> float:
    """MACs as one convolution, over those of all of its own."""
    known = survey.neighbours
    own = sum(known[name].spec.macs for name in _firsts(survey, branches.convolutions) if known[name].specs)
    x = call.inputs[0]
    return branches.whole.spec(x.shape[2:], x.shape[0]).macs / own if own else 1.0


def _firsts(survey: Survey, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(survey.flow.names.get(name, name) for name in names))


def _under(survey: Survey, block: str, step: ChainStep) -> ChainStep | None:
    """A kept module by the name that it has inside the block."""
    if not isinstance(step, Kept):
        return step
    first = survey.flow.names.get(step.name, step.name)
    names = (first, *survey.trace.modules[first].aliases) if first in survey.trace.modules else ()
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


def _sums(survey: Survey, name: str) -> bool:
    """Whether a call of it adds tensors of one shape, by its own code."""
    for call in survey.flow.calls(name):
        for op in survey.trace.ops[call.first_op : call.end_op]:
            if op.call == call.index and op.base in ("aten.add", "aten.add_"):
                return True
    return False
