"""The data of `Proposals` and `Rewritten`, without how they are shown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, overload

from archcost.analysis.analysis import Analysis, analyze
from archcost.analysis.comparison import Comparison
from archcost.errors import SpecError
from archcost.rewriting.proposal import Advice, Proposal, Skipped, best_of

if TYPE_CHECKING:
    from torch import nn

    from archcost.latency.store.store import Store
    from archcost.latency.timed import TimedModel
    from archcost.rewriting.plan.applying import Outcome
    from archcost.rewriting.plan.plan import Applied, Plan
    from archcost.rewriting.proposal import Raced
    from archcost.trace.call import Call

__all__ = ["RewrittenModel", "SurveyedModel"]


@dataclass(frozen=True)
class SurveyedModel(Sequence[Proposal]):
    """Cheaper replacements for a model's convolutions: a sequence of `Proposal`."""

    analysis: Analysis
    """The analysis of the model; it does not keep the model alive."""
    proposals: tuple[Proposal, ...]
    skipped: tuple[Skipped, ...] = ()
    """Layers that a rule, or every rule, skipped, with the reasons."""
    advice: tuple[Advice, ...] = ()
    device: str | None = None
    """The machine and the threads of the stored times; None where there are none."""
    ratio: float | None = None
    """The MACs asked for, as a share of those of each layer; the largest where there were several."""
    store: Store | str | os.PathLike[str] | Literal[False] | None = field(
        default=None, repr=False, compare=False, metadata={"saved": False}
    )
    """The store of measured times, as given to `propose`."""
    notes: tuple[str, ...] = ()
    """Remarks beside those of the analysis: rules of other packages that could not be loaded."""
    random_weights: bool = False
    """Whether the weights are known to be untrained, so that errors say nothing."""
    timed: TimedModel | None = None
    """The model measured on this machine, for the page; ``archcost report --measure`` sets it."""

    @property
    def model_name(self) -> str:
        return self.analysis.name

    def __len__(self) -> int:
        return len(self.proposals)

    def __iter__(self) -> Iterator[Proposal]:
        return iter(self.proposals)

    @overload
    def __getitem__(self, key: int) -> Proposal: ...

    @overload
    def __getitem__(self, key: slice | str) -> tuple[Proposal, ...]: ...

    def __getitem__(self, key: int | slice | str) -> Proposal | tuple[Proposal, ...]:
        """A proposal by number, or all proposals for the module of a name, as a tuple."""
        if not isinstance(key, str):
            return self.proposals[key]
        info = self.analysis.trace.modules
        key = next((name for name, one in info.items() if key in one.aliases), key)
        found = tuple(one for one in self.proposals if key in one.replacement.chains)
        if found:
            return found
        from archcost.trace.modules import no_convolution

        reasons = [f"{one.rule or 'every rule'}: {one.reason}" for one in self.skipped if one.name == key]
        if reasons:
            raise SpecError(f"nothing is proposed for {key!r}. {'; '.join(reasons)}")
        known = [*(one.name for one in self.proposals), *(one.name for one in self.skipped)]
        raise SpecError(no_convolution(self.model_name, key, known, info))

    @property
    def recommended(self) -> tuple[Proposal, ...]:
        """The proposals that are recommended."""
        return tuple(one for one in self.proposals if one.recommended)

    def best(self, rules: Iterable[str] | None = None) -> tuple[Proposal, ...]:
        """The best recommended proposal for each layer, no module twice: exact, else the smallest error.

        Where errors are not known, the MACs closest to those asked for: the fewer are left, the more is lost.

        Args:
            rules: names of the rules to choose from; by default all.
        """
        wanted = None if rules is None else set(rules)
        usable = (one for one in self.proposals if wanted is None or one.rule in wanted)
        return best_of(usable, self.ratio)

    def __repr__(self) -> str:
        places = len({one.name for one in self.proposals})
        return f"<{len(self)} Proposals for {places} layers of {self.model_name}; print them for the table>"


@dataclass(frozen=True, eq=False)
class RewrittenModel:
    """A model with cheaper layers, the old model unless it was changed in place, and every outcome."""

    model: nn.Module
    plan: Plan
    before: Analysis
    """The analysis of the old model."""
    outcomes: tuple[Outcome, ...]
    """Every new layer with its errors."""
    skipped: tuple[Skipped, ...]
    """Layers that a rule skipped, or rewrote without fitting them to the data, with the reasons."""
    inputs: Call
    original: nn.Module | None
    """The old model; None where it was changed in place."""
    applied: Applied
    notes: tuple[str, ...] = ()
    """Remarks beside those of the analysis: rules of other packages that could not be loaded."""
    speed: Raced | None = field(default=None, init=False)
    """Old and new model timed in turns by `race`; None before."""

    @cached_property
    def after(self) -> Analysis:
        """The analysis of the new model."""
        return analyze(self.model, self.inputs, progress=False)

    @cached_property
    def comparison(self) -> Comparison:
        """Every cost of the old and the new model, module by module."""
        return Comparison(self.before, self.after)

    @cached_property
    def output_error(self) -> float | None:
        """max |new - old| / max |old| of the model's outputs; None where the model was changed in place."""
        if self.original is None:
            return None
        from archcost.rewriting.plan.applying import outputs_apart
        from archcost.surgery.outputs import worst_error

        return worst_error(*(outputs_apart(model, self.inputs) for model in (self.model, self.original)))

    def __repr__(self) -> str:
        old, new = self.before.total.macs, self.after.total.macs
        return f"<Rewritten {self.before.name}: {len(self.plan)} layers, {old:,} -> {new:,} MACs; print it>"
