"""Rows: a convolution and the linear layers behind it, each the only successor of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from archcost.errors import Refusal
from archcost.merging.affine import Affine, identity
from archcost.merging.chain import Chain, Kept
from archcost.merging.norms import inner_activation, is_norm, norm_problem
from archcost.merging.transposed import Transposed, begun
from archcost.rewriting.survey.graph import LayerOutput, Taker, results_of, takers
from archcost.rewriting.survey.movable import why_fixed
from archcost.rewriting.survey.survey import Subject
from archcost.trace.graph import refs

__all__ = ["LinearRow", "Whole", "norm_before", "row_of"]

Whole = Affine | Transposed


@dataclass(frozen=True)
class _Member:
    """A layer of a row, with the function of the row up to it."""

    name: str
    whole: Whole
    is_norm: bool
    macs: int
    """MACs of this layer alone."""
    left: Chain
    """Steps that stay in its place: the activation function inside timm's batch normalisation."""


@dataclass(frozen=True)
class LinearRow:
    """A convolution and the layers behind it that a single convolution can compute."""

    members: tuple[_Member, ...]
    """The layers, the convolution first, with a batch normalisation before it; none where that cannot be
    merged."""
    stopped: str
    """Why the next layer does not belong to the row."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Names of the layers up to which the row can be merged."""
        return tuple(one.name for one in self.members[1:])

    @property
    def proposed(self) -> tuple[str, ...]:
        """The ``ends`` to propose: a batch normalisation is not left out behind them."""
        later = self.members[1:]
        return tuple(a.name for a, b in zip_longest(later, later[1:]) if b is None or not b.is_norm)

    def up_to(self, last: str | None) -> tuple[Whole, dict[str, Chain]] | Refusal:
        """The function up to a layer, and the chain left in the place of each layer but the first; or why
        not.

        Args:
            last: name of the last layer; None: the convolution, with the batch normalisation before it.
        """
        if not self.members or (last is not None and last not in self.ends):
            return Refusal(self.stopped)
        members = self._members(last)
        return members[-1].whole, {one.name: one.left for one in members[1:]}

    def macs(self, last: str | None) -> int:
        """MACs of the layers up to ``last``, in the first call."""
        return sum(one.macs for one in self._members(last))

    def norms(self, last: str | None) -> bool:
        """Whether there is a batch normalisation among the layers up to ``last``."""
        return any(one.is_norm for one in self._members(last))

    def _members(self, last: str | None) -> tuple[_Member, ...]:
        if last is None:
            return self.members[:1]
        return self.members[: [one.name for one in self.members].index(last, 1) + 1]


def row_of(subject: Subject, first: str | None = None) -> LinearRow:
    """The row that begins with a convolution, or with a batch normalisation before it (`norm_before`)."""
    spec = subject.spec
    whole: Whole | Refusal
    if first is None:
        whole = begun(spec)
    elif spec.transposed:
        whole = Refusal(
            "is transposed: at the border fewer of its taps read what the batch normalisation adds"
        )
    else:
        whole = identity(spec.in_channels, subject.axes).scaled(None, None).convolved(spec)
    if isinstance(whole, Refusal):
        return LinearRow((), f"{subject.name} {whole}")
    members = [_Member(subject.name, whole, first is not None, spec.macs, ())]
    results = results_of(subject)
    size = spec.output_size
    while not isinstance(results, Refusal):
        if members[-1].left:
            return LinearRow(tuple(members), f"{members[-1].name} contains an activation function")
        found = takers(subject.survey, results)
        if isinstance(found, Refusal):
            return LinearRow(tuple(members), found.reason)
        member = _member(subject, members[-1].whole, found, size)
        if isinstance(member, Refusal):
            return LinearRow(tuple(members), member.reason)
        if member.name in {one.name for one in members}:
            return LinearRow(tuple(members), f"{member.name} is called again")
        members.append(member)
        size = member.whole.spec(spec.input_size).output_size
        results = [one.result for one in found]
    return LinearRow(tuple(members), results.reason)


def norm_before(subject: Subject) -> str | None:
    """Name of the batch normalisation whose only successor is this convolution; None: there is none."""
    survey, flow = subject.survey, subject.survey.flow
    call = survey.trace.calls[subject.ops[0].call]
    maker = flow.maker(call.inputs[0], call.first_op) if call.inputs else None
    name = "" if maker is None else flow.module_of(maker)
    if not name or not is_norm(module := survey.model.get_submodule(name)):
        return None
    if any((norm_problem(module), why_fixed(survey, name), inner_activation(name, module))):
        return None
    results = [LayerOutput(next(refs(call.outputs)), call.end_op - 1) for call in flow.calls(name)]
    found = takers(survey, results)
    if isinstance(found, Refusal) or found[0].call is None or found[0].module != subject.name:
        return None
    return name if len(found) == len(subject.ops) else None


def _member(
    subject: Subject, before: Whole, found: Sequence[Taker], size: Sequence[int]
) -> _Member | Refusal:
    survey, first = subject.survey, found[0]
    if first.call is None:
        return Refusal(f"the next operation is {first}, which cannot be merged")
    module = survey.model.get_submodule(first.module)
    then = survey.neighbours.get(first.module)
    if then is None and is_norm(module):
        why = norm_problem(module)
        fixed = why_fixed(survey, first.module)
        if why is not None or fixed is not None:
            return Refusal(f"{first} {why}" if why is not None else f"{first.module} {fixed}")
        inner = inner_activation(first.module, module)
        left: Chain = () if inner is None else (Kept(inner),)
        return _Member(first.module, before.scaled(None, None), True, 0, left)
    if then is None:
        return Refusal(f"the next layer is {first}, neither a convolution nor a batch normalisation")
    if then.refusal is not None:
        return Refusal(f"{first.module} cannot be replaced: {then.refusal}")
    if then.spec.transposed:
        return Refusal(f"{first.module} is transposed, which cannot be merged into a layer before it")
    if tuple(then.spec.input_size) != tuple(size):
        return Refusal(f"{first.module} reads its input in another shape")
    whole = before.convolved(then.spec)
    if isinstance(whole, Refusal):
        return Refusal(f"{first.module} {whole}")
    return _Member(first.module, whole, False, then.spec.macs, ())
