"""Rows: a convolution and the linear layers behind it, each taking alone what the one before gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archcost.rewriting.graph import Taker, results_of, takers
from archcost.rewriting.merging.affine import Linear, linear
from archcost.rewriting.movable import norm_problem, others, why_fixed
from archcost.rewriting.replacement import Chain, Kept
from archcost.rewriting.subjects import Subject

__all__ = ["Row", "row_of"]


@dataclass(frozen=True)
class _Member:
    """One layer of a row, with all before it."""

    name: str
    whole: Linear
    is_norm: bool
    macs: int
    """Of this layer alone."""
    left: Chain
    """What stays in its place: the activation inside timm's batch normalisation."""


@dataclass(frozen=True)
class Row:
    """From a convolution on, as far as one convolution can do it."""

    members: tuple[_Member, ...]
    stopped: str
    """Why it ends where it does."""

    @property
    def ends(self) -> tuple[str, ...]:
        """The layers that it can be merged up to."""
        return tuple(one.name for one in self.members[1:])

    @property
    def proposed(self) -> tuple[str, ...]:
        """Those of them worth a look: with the batch normalisation behind, where there is one."""
        pairs = zip(self.members, (*self.members[1:], None), strict=True)
        return tuple(a.name for a, b in pairs if a is not self.members[0] and (b is None or not b.is_norm))

    def up_to(self, last: str) -> tuple[Linear, dict[str, Chain]] | str:
        """The function up to a layer, and what is left in the place of each but the first; or why not."""
        if last not in self.ends:
            return self.stopped
        members = self._members(last)
        return members[-1].whole, {one.name: one.left for one in members[1:]}

    def macs(self, last: str) -> int:
        """Of the layers up to that one, for the first call."""
        return sum(one.macs for one in self._members(last))

    def norms(self, last: str) -> bool:
        return any(one.is_norm for one in self._members(last))

    def _members(self, last: str) -> tuple[_Member, ...]:
        return self.members[: [one.name for one in self.members].index(last, 1) + 1]


def row_of(subject: Subject) -> Row:
    """The row that begins with a convolution."""
    spec = subject.spec
    if spec.transposed:
        return _of_transposed(subject)
    members = [_Member(subject.name, linear(spec), False, spec.macs, ())]
    results = results_of(subject)
    size = spec.output_size
    while not isinstance(results, str):
        if members[-1].left:
            return Row(tuple(members), f"{members[-1].name} activates what it has normalised")
        found = takers(subject.around, results)
        if isinstance(found, str):
            return Row(tuple(members), found)
        member = _member(subject, members[-1].whole, found, size)
        if isinstance(member, str):
            return Row(tuple(members), member)
        if member.name in {one.name for one in members}:
            return Row(tuple(members), f"{member.name} comes again")
        members.append(member)
        size = member.whole.spec(spec.input_size).output_size
        results = [one.result for one in found]
    return Row(tuple(members), results)


def _of_transposed(subject: Subject) -> Row:
    return Row(
        (_Member(subject.name, _nothing(subject), False, subject.spec.macs, ()),),
        "it is transposed, and is not put together with others",
    )


def _nothing(subject: Subject) -> Linear:
    ones = (1,) * subject.axes
    return Linear(1, 1, 1, ones, ((0,),) * subject.axes, (-1,) * subject.axes, "zeros", False)


def _member(subject: Subject, before: Linear, found: Sequence[Taker], size: Sequence[int]) -> _Member | str:
    around, first = subject.around, found[0]
    if first.call is None:
        return f"what follows is {first}: there is no layer to merge it with"
    module = around.model.get_submodule(first.module)
    then = others(around).get(first.module)
    if then is None:
        why = norm_problem(module)
        if why is not None:
            return (
                f"what follows is {first}, which is neither a convolution nor a norm"
                if "no batch" in why
                else f"{first} {why}"
            )
        fixed = why_fixed(around, first.module)
        if fixed is not None:
            return f"{first.module} {fixed}"
        return _Member(first.module, before.scaled(None, None), True, 0, _left(first, module))
    if then.refusal is not None:
        return f"{first.module} stays: {then.refusal}"
    if then.spec.transposed:
        return f"{first.module} is transposed, and is not put together with others"
    if tuple(then.spec.input_size) != tuple(size):
        return f"{first.module} gets its input in another shape"
    whole = before.convolved(then.spec)
    return f"{first.module} {whole}" if isinstance(whole, str) else _Member(
        first.module, whole, False, then.spec.macs, ()
    )  # fmt: skip


def _left(first: Taker, module: object) -> Chain:
    act = getattr(module, "act", None)
    if act is None or type(act).__name__ == "Identity":
        return ()
    return (Kept(f"{first.module}.act"),)
