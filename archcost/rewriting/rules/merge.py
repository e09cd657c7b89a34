"""merge: several linear layers as a single convolution, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from archcost.errors import Refusal, RewriteError
from archcost.merging.chain import Chain, Conv
from archcost.merging.numbers import merged_block, merged_row
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Modules, Option, Rewrite, RuleOptions, Weights
from archcost.rewriting.survey.blocks import MOST_MACS, block_around, read_block
from archcost.rewriting.survey.rows import LinearRow, Whole, norm_before, row_of
from archcost.rewriting.survey.survey import Subject
from archcost.surgery.refusals import is_convolution
from archcost.weights.moments import Moments

__all__ = ["Merge"]

_NOTE = "batch normalisations are fixed at their present statistics, also in later training"


class Merge(Rewrite):
    """Fold batch normalisations, linear neighbours or parallel branches into a single convolution.

    Options: ``last``, the last layer to fold into this one; ``first``, the batch normalisation before it,
    where it does not pad with zeros; or ``block``, the module whose branches are summed (RepVGG, Ding et al.
    2021; ACNet, Ding et al. 2019; MobileOne, Vasu et al. 2023).
    """

    name = "merge"
    change = "BN, conv, BN, conv ... -> one conv; KxK + 1x1 + identity -> KxK"
    break_even = (
        "K^2 I O < sum of k^2 i o over the layers, K the kernel that they compose to; folding a batch "
        "normalisation always saves"
    )

    def refusal(self, subject: Subject) -> Refusal | None:
        block = block_around(subject)
        if isinstance(block, tuple) and block[1] != subject.name:
            return Refusal(f"it is merged with {block[1]}, as a branch of {block[0]}")
        if isinstance(block, tuple):
            return None
        why = self._why_no_row(subject)
        return why if why is None or block is None else Refusal(f"{why}; {block}")

    def options(self, subject: Subject, ratio: float) -> Iterable[RuleOptions]:
        block = block_around(subject)
        if isinstance(block, tuple):
            if block[1] == subject.name:
                yield {"block": block[0]}
            return
        for first, row in _rows(subject):
            for end in row.proposed or (None,) * bool(first and row.members):
                made = self.replacement(subject, first=first, last=end)
                if made.macs <= MOST_MACS * row.macs(end):
                    yield {key: value for key, value in (("first", first), ("last", end)) if value}

    def replacement(
        self,
        subject: Subject,
        *,
        last: str | None = None,
        first: str | None = None,
        block: str | None = None,
        **unknown: Option,
    ) -> Replacement:
        if unknown or (last is None and first is None) == (block is None):
            raise RewriteError(
                f"{subject.name}: merge takes last='...', a layer behind it, first='...', a batch "
                f"normalisation before it, or block='...', a module that sums branches"
            )
        if block is not None:
            return self._of_block(subject, block)
        rows = dict(_rows(subject))
        if first not in rows:
            there = ", ".join(name for name in rows if name) or "none"
            raise RewriteError(
                f"{subject.name}: first={first!r} is not a batch normalisation right before it; give {there}"
            )
        found = rows[first].up_to(last)
        if isinstance(found, Refusal):
            ends = ", ".join(rows[first].ends) or "none"
            said = "" if last is None else f"last={last!r} is not valid: "
            raise RewriteError(f"{subject.name}: {said}{found}; last can be {ends}")
        whole, chains = found
        spec = whole.spec(subject.spec.input_size, subject.spec.batch)
        made: dict[str, Chain] = {subject.name: (Conv(spec),), **chains}
        before = () if first is None else (first,)
        note = _NOTE if rows[first].norms(last) else ""
        return Replacement(made | dict.fromkeys(before, ()), exact=True, note=note, before=before)

    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        conv = next(step for step in replacement.chain if isinstance(step, Conv))
        with torch.no_grad():
            if is_convolution(modules[replacement.name]):
                names = [name for name in replacement.chains if name not in replacement.before]
                first = next((modules[name] for name in replacement.before), None)
                whole: Whole = merged_row([(name, modules[name]) for name in names], conv.spec, first)
            else:
                whole = merged_block(replacement.name, modules[replacement.name], conv.spec)
            if whole.spec(conv.spec.input_size, conv.spec.batch) != conv.spec:
                raise RewriteError(
                    f"{replacement.name}: its layers do not compose to {conv.spec}: the plan was made for "
                    f"another model"
                )
            return {replacement.name: [whole.weights()]}

    def _why_no_row(self, subject: Subject) -> Refusal | None:
        """Why it cannot be merged with layers behind or before it; None where it can."""
        rows = list(_rows(subject))
        if any(row.ends or (first is not None and row.members) for first, row in rows):
            return None
        said = [
            row.stopped if first is None else f"with {first} before it, {row.stopped}" for first, row in rows
        ]
        return Refusal("; ".join(reversed(said)))

    def _of_block(self, subject: Subject, block: str) -> Replacement:
        found = read_block(subject.survey, block)
        if isinstance(found, Refusal):
            raise RewriteError(f"{subject.name}: {block} cannot be merged: it {found}")
        call, branches = found
        size = call.inputs[0].shape[2:]
        spec = branches.whole.spec(size, call.inputs[0].shape[0])
        return Replacement({block: (Conv(spec), *branches.tail)}, exact=True, note=_NOTE)


def _rows(subject: Subject) -> Iterator[tuple[str | None, LinearRow]]:
    """Rows with the batch normalisation that they begin with; the last begins with the convolution, None."""
    first = norm_before(subject)
    if first is not None:
        yield first, row_of(subject, first)
    yield None, row_of(subject)


RULES, ORDER = (Merge(),), 70
