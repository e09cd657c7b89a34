"""What could stand in the place of a model's convolutions: propose, and the Proposals it returns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.errors import SpecError
from archcost.rewriting.proposal import Advice, Proposal, Stays, best_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from archcost.latency.store.store import Store
    from archcost.report.frames import Path
    from archcost.rewriting.survey.survey import Survey

__all__ = ["Proposals", "propose"]


def propose(
    model: nn.Module | str | Analysis,
    inputs: Any = None,
    *,
    rules: Sequence[str] | None = None,
    ratio: float | Iterable[float] = 0.5,
    names: Iterable[str] | None = None,
    errors: bool = True,
    batches: Iterable[Any] | None = None,
    store: Store | str | os.PathLike[str] | Literal[False] | None = None,
    input_size: Any = None,
    progress: bool | None = None,
) -> Proposals:
    """What every rule would put in the place of each convolution, and why not where it would not.

    Nothing is measured and nothing changed: times are those that the store has (`archcost.measure`, and
    `Proposals.measured`), errors those of the weights.

    Args:
        model: a module, a SPEC, or the Analysis of one.
        inputs, input_size: as in `archcost.analyze`; an Analysis has its own.
        rules: names, of `archcost.rewriting.available()`; by default all.
        ratio: the MACs wanted, as a share of those of each layer; one or several.
        names: of the layers to look at, or patterns such as ``"features.*"``; by default all.
        errors: work out the error of the weights, which takes seconds for large layers.
        batches: unlabelled inputs: then the error of each layer's output is worked out too.
        store: where times are looked up: a `Store`, a path, by default the user's own; False: nowhere.

    Raises:
        InputError: an argument makes no sense, or the inputs do not fit.
        ModelError: the model cannot be traced, or is gone.
        SpecError: no such rule, no such layer, or the SPEC names nothing.
    """
    analysis = analysis_of("propose", model, inputs, input_size=input_size, progress=progress)
    from archcost.latency.store.store import opened
    from archcost.rewriting.proposing import proposals_of
    from archcost.rewriting.survey.survey import survey_of

    ratios = (ratio,) if isinstance(ratio, (int, float)) else tuple(ratio)
    with opened(store) as there:
        survey = survey_of(analysis, store=there)
        asked = None if names is None else _asked(survey, names)
        if batches is not None:
            from archcost.rewriting.plan.applying import moments_of
            from archcost.trace.modules import check_values

            check_values(survey.model, "propose with batches")
            open_ = [one for one in survey if one.refusal is None]
            wanted = [one.name for one in open_ if asked is None or one.name in asked]
            survey.moments.update(moments_of(survey.model, wanted, batches, strict=False, progress=progress))
        found = proposals_of(
            survey, rules=rules, ratios=ratios, names=asked, errors=errors, progress=progress
        )
    return Proposals(
        analysis=analysis,
        proposals=found.proposals,
        stays=found.stays,
        advice=found.advice,
        ratio=max(ratios),
        device=found.device,
        store=store,
    )


def _asked(survey: Survey, names: Iterable[str]) -> list[str]:
    """The first names of the convolutions that names and patterns mean, in order of definition."""
    given = [names] if isinstance(names, str) else names
    meant = {one.name for asked in given for one in survey.meant(asked)}
    return [name for name in survey.subjects if name in meant]


@dataclass(frozen=True)
class Proposals(Sequence[Proposal]):
    """What could stand in the place of a model's convolutions; ``print`` it, or take it as pandas ..."""

    analysis: Analysis
    """Of the model, which is not kept alive by it."""
    proposals: tuple[Proposal, ...]
    stays: tuple[Stays, ...] = ()
    advice: tuple[Advice, ...] = ()
    device: str | None = None
    """Where the store's times come from, and the threads; None where it had none."""
    ratio: float | None = None
    """The MACs asked for, as a share of those of each layer; the largest where there were several."""
    store: Any = field(default=None, repr=False, compare=False)
    """Where times were looked up, as `propose` was told."""

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

    def measured(
        self,
        inputs: Any = None,
        *,
        seconds: float = 60.0,
        store: Store | str | os.PathLike[str] | Literal[False] | None = None,
        progress: bool | None = None,
    ) -> Proposals:
        """The same, with old and new layers timed here in turns; the store keeps what was found.

        The store is that of `propose`, unless another is given.

        Args:
            inputs: of the model; by default random ones of the shapes that were traced.
            seconds: that it may take, about; proposals that time does not reach stay as they are.

        Raises:
            ModelError: the model is gone, or on `meta`.
        """
        from archcost.latency.store.store import opened
        from archcost.rewriting.racing import race_proposals
        from archcost.trace.call import Call, like_traced
        from archcost.trace.modules import check_values

        check_values(self.analysis.model, "measured")
        call = like_traced(self.analysis.trace) if inputs is None else Call.of(inputs)
        with opened(self.store if store is None else store) as there:
            found = race_proposals(
                self.analysis.model, self.proposals, call, seconds=seconds, store=there, progress=progress
            )
        return replace(self, proposals=found)

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

    def __str__(self) -> str:
        from archcost.report.proposals import printed

        return printed(self)

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(self.to_text())

    def _repr_html_(self) -> str:
        return self.to_html()

    def table(self, width: int | None = None) -> None:
        """Print the table: in colour and within the width on a terminal, plain and uncut in a pipe."""
        from archcost.report.proposals import draw

        draw(self, width=width)

    def to_text(self, width: int | None = None) -> str:
        """The table as plain text, uncut unless a width is given."""
        from archcost.report.proposals import text_of

        return text_of(self, width=width)

    def to_csv(self, path: Path | None = None) -> str | None:
        """`to_pandas` as CSV, into a file or returned; what looks like a formula gets a leading ``'``."""
        from archcost.report.proposals import to_csv

        return to_csv(self, path)

    def to_pandas(self) -> pd.DataFrame:
        """One row a proposal: the columns of `archcost.report.proposals.COLUMNS`."""
        from archcost.report.proposals import to_pandas

        return to_pandas(self)

    def to_markdown(self) -> str:
        """A markdown table for people, what stays as it is, and advice."""
        from archcost.report.proposals import to_markdown

        return to_markdown(self)

    def to_html(self) -> str:
        """The same as HTML that needs nothing else."""
        from archcost.report.proposals import to_html

        return to_html(self)

    def to_json(self, path: Any = None, indent: int | None = 2) -> str | None:
        """Strict JSON, into a file or returned; its schema is stated in `archcost.report.proposals`."""
        from archcost.report.proposals import to_json

        return to_json(self, path, indent)
