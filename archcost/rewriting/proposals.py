"""What could stand in the place of a model's convolutions: propose, and the Proposals it returns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.report.document import Asked, Document
from archcost.report.result import Result
from archcost.rewriting.reports.proposals import document_of
from archcost.rewriting.results import Proposed

if TYPE_CHECKING:
    from torch import nn

    from archcost.latency.store.store import Store
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
    from archcost.rewriting.rule import table
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
        notes=table.notes,
    )


def _asked(survey: Survey, names: Iterable[str]) -> list[str]:
    """The first names of the convolutions that names and patterns mean, in order of definition."""
    given = [names] if isinstance(names, str) else names
    meant = {one.name for asked in given for one in survey.meant(asked)}
    return [name for name in survey.subjects if name in meant]


class Proposals(Proposed, Result):
    """What could stand in the place of a model's convolutions: a sequence of `Proposal`, and a table.

    The table has layers that are alike in one row, and of each rule the best; with ``sort`` or ``top`` its
    rows are single proposals, as those of data are.
    """

    def document(self, asked: Asked) -> Document:
        """The schema is stated in `archcost.rewriting.reports.proposals`."""
        return document_of(self, asked)

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
