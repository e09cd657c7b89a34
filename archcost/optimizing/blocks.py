"""Blocks of branches merged into single convolutions, exactly, before anything else is planned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from archcost.analysis.analysis import Analysis, analyze
from archcost.optimizing.layers import Layer
from archcost.rewriting.plan.plan import Plan
from archcost.rewriting.proposal import Proposal
from archcost.rewriting.proposing import proposal_of
from archcost.rewriting.rule import get
from archcost.rewriting.survey.blocks import block_around
from archcost.rewriting.survey.survey import Subject, Survey, survey_of
from archcost.surgery.copying import copied
from archcost.surgery.sites import Hooks
from archcost.trace.call import Call

__all__ = ["Merged", "merged"]


@dataclass(frozen=True, eq=False)
class Merged:
    """A model whose blocks of branches are single convolutions; the given one where it has no such block."""

    survey: Survey
    analysis: Analysis
    plan: Plan | None = None
    """The merges; None: there are none."""

    def proposal_of(self, layers: Sequence[Layer]) -> dict[str, Proposal]:
        """The merge that made each layer, by the layer's name.

        Args:
            layers: of the merged model, in order of execution.
        """
        found: dict[str, Proposal] = {}
        for one in self.plan or ():
            inside = (n for n in (at.name for at in layers) if f"{n}.".startswith(f"{one.name}."))
            found |= dict.fromkeys(list(inside)[:1], one)
        return found

    @property
    def note(self) -> str:
        """The merges in words."""
        if self.plan is None:
            return ""
        names = [one.name for one in self.plan]
        said = ", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)
        before, after = (sum(getattr(one, what).macs for one in self.plan) for what in ("before", "after"))
        return (
            f"merged first, exactly: the branches of {said}, {before:,} MACs as {after:,}; their batch "
            f"normalisations are fixed at their present statistics"
        )


def merged(analysis: Analysis, call: Call, hooks: Hooks, exclude: Iterable[str], wanted: bool) -> Merged:
    """Every module that sums branches of convolutions as a single one, where that takes no more MACs.

    Args:
        exclude: names or patterns of layers that stay, and with them the blocks that hold them.
        wanted: False leaves the model as it is.
    """
    survey = survey_of(analysis, hooks=hooks)
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    found = []
    for subject in survey if wanted else ():
        block = _block(subject)
        if block is None or any(_holds(block, survey, pattern) for pattern in patterns):
            continue
        one = proposal_of(get("merge"), subject, {"block": block}, errors=False)
        if one.after.macs <= one.before.macs:
            found.append(one)
    if not found:
        return Merged(survey, analysis)
    plan = Plan(found)
    work = copied(analysis.model).eval()
    plan.apply(work, inplace=True, hooks=hooks)
    _as_it_was(work, analysis.model)
    again = replace(analyze(work, call, progress=False), name=analysis.name)
    return Merged(survey_of(again, hooks=hooks), again, plan)


def _block(subject: Subject) -> str | None:
    """The block that a convolution is the first of."""
    if subject.refusal is not None:
        return None
    found = block_around(subject)
    return found[0] if isinstance(found, tuple) and found[1] == subject.name else None


def _holds(block: str, survey: Survey, pattern: str) -> bool:
    inside = [name for one in survey for name in one.names if name.startswith(f"{block}.")]
    if pattern == block or block.startswith(f"{pattern}.") or fnmatchcase(block, pattern):
        return True
    return any(
        name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern) for name in inside
    )


def _as_it_was(work: nn.Module, given: nn.Module) -> None:
    """Training mode of every module as in the given model, of new ones as of what they stand in for."""
    was = {name: module.training for name, module in given.named_modules()}
    for name, module in work.named_modules():
        while name not in was:
            name = name.rpartition(".")[0]
        module.training = was[name]
