"""What propose and rewrite found, as data; the faces are `Proposals` and `Rewritten`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from archcost.analysis.analysis import Analysis, analyze
from archcost.analysis.comparison import Comparison
from archcost.errors import SpecError
from archcost.rewriting.proposal import Advice, Proposal, Stays, best_of

if TYPE_CHECKING:
    from torch import nn

    from archcost.rewriting.plan.applying import Outcome
    from archcost.rewriting.plan.plan import Applied, Plan
    from archcost.rewriting.proposal import Raced

__all__ = ["Proposed", "RewrittenModel"]


@dataclass(frozen=True)
class Proposed(Sequence[Proposal]):
    """What could stand in the place of a model's convolutions."""

    analysis: Analysis
    """Of the model, which is not kept alive by it."""
    proposals: tuple[Proposal, ...]
    stays: tuple[Stays, ...] = ()
    advice: tuple[Advice, ...] = ()
    device: str | None = None
    """Where the store's times come from, and the threads; None where it had none."""
    ratio: float | None = None
    """The MACs asked for, as a share of those of each layer; the largest where there were several."""
    store: Any = field(default=None, repr=False, compare=False, metadata={"saved": False})
    """Where times were looked up, as `propose` was told."""
    notes: tuple[str, ...] = ()
    """Beside those of the analysis: the rules of other packages that could not be loaded."""

    @property
    def model_name(self) -> str:
        return self.analysis.name

    def __len__(self) -> int:
        return len(self.proposals)

    def __iter__(self) -> Iterator[Proposal]:
        return iter(self.proposals)

    def __getitem__(self, key: Any) -> Any:
        """By number; or by the name of a module, a tuple of all that is proposed for it."""
        if not isinstance(key, str):
            return self.proposals[key]
        info = self.analysis.trace.modules
        key = next((name for name, one in info.items() if key in one.aliases), key)
        found = tuple(one for one in self.proposals if key in one.replacement.chains)
        if found:
            return found
        from archcost.trace.modules import no_convolution

        reasons = [f"{one.rule or 'every rule'}: {one.reason}" for one in self.stays if one.name == key]
        if reasons:
            raise SpecError(f"nothing is proposed for {key!r}. {'; '.join(reasons)}")
        known = [*(one.name for one in self.proposals), *(one.name for one in self.stays)]
        raise SpecError(no_convolution(self.model_name, key, known, info))

    @property
    def recommended(self) -> tuple[Proposal, ...]:
        """Those that nothing speaks against."""
        return tuple(one for one in self.proposals if one.recommended)

    def best(self, rules: Iterable[str] | None = None) -> tuple[Proposal, ...]:
        """For each layer one, no module twice: recommended, exact before inexact, of the smallest error.

        Where errors are not known, of the fewest MACs.
        """
        wanted = None if rules is None else set(rules)
        usable = (one for one in self.proposals if wanted is None or one.rule in wanted)
        return best_of(usable, self.ratio)

    def __repr__(self) -> str:
        places = len({one.name for one in self.proposals})
        return f"<{len(self)} Proposals for {places} places of {self.model_name}; print them for the table>"


@dataclass(frozen=True, eq=False)
class RewrittenModel:
    """A model with cheaper layers, the old one where it is still there, and what became of each layer."""

    model: nn.Module
    plan: Plan
    before: Analysis
    """Of the model as it was."""
    outcomes: tuple[Outcome, ...]
    """Layer by layer: the errors of what was done."""
    stays: tuple[Stays, ...]
    """Where a rule was asked for and did nothing, or less than it could, and why."""
    inputs: Any
    original: nn.Module | None
    """The model as it was; None where it was changed in place."""
    applied: Applied
    notes: tuple[str, ...] = ()
    """Beside those of the analysis: the rules of other packages that could not be loaded."""
    speed: Raced | None = field(default=None, init=False)
    """What `race` found last; None before."""

    @cached_property
    def after(self) -> Analysis:
        """Of the new model."""
        return analyze(self.model, self.inputs, progress=False)

    @cached_property
    def comparison(self) -> Comparison:
        """Old and new, in every cost, module by module."""
        return Comparison(self.before, self.after)

    @cached_property
    def output_error(self) -> float | None:
        """max |new - old| / max |old| of the outputs for the inputs given; None where the old one is gone."""
        if self.original is None:
            return None
        from archcost.rewriting.plan.applying import outputs_apart
        from archcost.surgery.outputs import worst_error

        return worst_error(*(outputs_apart(model, self.inputs) for model in (self.model, self.original)))

    def __repr__(self) -> str:
        old, new = self.before.total.macs, self.after.total.macs
        return f"<Rewritten {self.before.name}: {len(self.plan)} places, {old:,} -> {new:,} MACs; print it>"
