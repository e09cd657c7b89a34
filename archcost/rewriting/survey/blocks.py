"""Blocks: modules that sum branches of one input, and may be replaced as a whole."""

from __future__ import annotations

import inspect

from torch import nn

from archcost.errors import Refusal
from archcost.merging.branches import Branches, branches_of
from archcost.merging.chain import ChainStep, Kept
from archcost.rewriting.survey.movable import why_fixed
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.trace.graph import ModuleCall

__all__ = ["MOST_MACS", "block_around", "read_block"]

MOST_MACS = 1.5
"""Largest ratio of a merged kernel's MACs to those of its layers: up to it a single kernel may be faster."""

Block = tuple[ModuleCall, Branches]


def block_around(subject: Subject) -> tuple[str, str] | Refusal | None:
    """Names of the block that has a convolution in a branch, and of its first convolution by definition.

    The block is the largest without modules behind its sum, else the smallest.

    Returns:
        Both names; a refusal where a module around sums branches that no single convolution computes; None
        where no module around sums branches.
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
                why = why or f"as a single convolution, {name} would have {grown:.1f} times its MACs"
    if not found:
        return None if why is None else Refusal(why)
    bare = [one for one in found if not any(isinstance(step, Kept) for step in one[1].tail)]
    name, branches = bare[-1] if bare else found[0]
    firsts = _firsts(survey, branches.convolutions)
    return name, min(firsts, key=list(survey.neighbours).index)


def read_block(survey: Survey, name: str) -> Block | Refusal:
    """The first call of a module and its branches in all calls; or why not, in words that follow its name."""
    return survey.once(_block, name)


def _block(survey: Survey, name: str) -> Block | Refusal:
    if name not in survey.trace.modules:
        return Refusal("is not the first name of a module")
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
        refusal = known[conv].refusal if conv in known else Refusal("it is not a convolution of its own")
        if refusal is not None and refusal.kind != "calls":
            return Refusal(f"holds {conv}, and {refusal}")
    tail = [step for step in (_under(survey, name, step) for step in first.tail) if step is not None]
    if len(tail) < len(first.tail):
        return Refusal("calls a module behind the sum that lies outside it")
    return calls[0], Branches(first.whole, tuple(tail), first.convolutions, first.additions)


def _growth(survey: Survey, call: ModuleCall, branches: Branches) -> float:
    """MACs as a single convolution over those of the block's convolutions."""
    known = survey.neighbours
    own = sum(known[name].spec.macs for name in _firsts(survey, branches.convolutions) if known[name].specs)
    x = call.inputs[0]
    return branches.whole.spec(x.shape[2:], x.shape[0]).macs / own if own else 1.0


def _firsts(survey: Survey, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(survey.flow.names.get(name, name) for name in names))


def _under(survey: Survey, block: str, step: ChainStep) -> ChainStep | None:
    """A step with a kept module under its name inside the block; None where it has none."""
    if not isinstance(step, Kept):
        return step
    first = survey.flow.names.get(step.name, step.name)
    names = (first, *survey.trace.modules[first].aliases) if first in survey.trace.modules else ()
    inside = [name for name in names if name.startswith(f"{block}.")]
    return Kept(inside[0]) if inside else None


def _takes_more(module: nn.Module) -> str | None:
    try:
        given = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return "has a forward whose arguments cannot be read"
    if len(given) != 1:
        return f"has a forward of {len(given)} arguments, and a convolution takes one"
    return None


def _sums(survey: Survey, name: str) -> bool:
    """Whether the module's own forward adds tensors."""
    for call in survey.flow.calls(name):
        for op in survey.trace.ops[call.first_op : call.end_op]:
            if op.call == call.index and op.base in ("aten.add", "aten.add_"):
                return True
    return False
