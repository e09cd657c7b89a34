"""propose: cheaper replacements for a model's convolutions, and the Proposals that it returns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.report.document import Asked, Document
from archcost.report.result import Result
from archcost.rewriting.reports.proposals import document_of
from archcost.rewriting.results import SurveyedModel

if TYPE_CHECKING:
    from torch import nn

    from archcost.latency.store.store import Store
    from archcost.rewriting.survey.survey import Survey
    from archcost.trace.call import Inputs
    from archcost.trace.inputs import InputSize

__all__ = ["Proposals", "propose"]


def propose(
    model: nn.Module | str | Analysis,
    inputs: Inputs = None,
    *,
    rules: Sequence[str] | None = None,
    ratio: float | Iterable[float] = 0.5,
    names: Iterable[str] | None = None,
    errors: bool = True,
    batches: Iterable[Inputs] | None = None,
    store: Store | str | os.PathLike[str] | Literal[False] | None = None,
    input_size: InputSize | None = None,
    progress: bool | None = None,
) -> Proposals:
    """Cheaper replacements for each convolution by every rule, and why a rule has none.

    Nothing is measured and nothing is changed: times come from the store (`archcost.measure` and
    `Proposals.measured` fill it), errors from the weights.

    Args:
        model: a module, a SPEC, or the Analysis of one.
        inputs, input_size: as in `archcost.analyze`; an Analysis has its own.
        rules: names of rules, from `archcost.rewriting.available()`; by default all.
        ratio: the MACs asked for, as a share of those of each layer, above 0 and at most 1; one or several.
        names: the layers to rewrite, by name or pattern such as ``"features.*"``; by default all.
        errors: compute the error of the weights, which takes seconds for large layers.
        batches: calibration data: unlabelled inputs, for the predicted error of each layer's output.
        store: the store of measured times: a `Store`, a path, by default the user's own; False: none.
        progress: draw a progress bar on stderr; by default on a terminal.

    Returns:
        Every proposal, the layers that rules skipped, and advice.

    Raises:
        InputError: an argument is not valid, or the inputs do not fit the model.
        ModelError: the model cannot be traced, or no longer exists.
        SpecError: an unknown rule, layer or model.
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
        skipped=found.skipped,
        advice=found.advice,
        ratio=max(ratios),
        device=found.device,
        store=store,
        notes=table.notes,
        random_weights=analysis.random_weights,
    )


def _asked(survey: Survey, names: Iterable[str]) -> list[str]:
    """First names of the convolutions that match names or patterns, in order of definition."""
    given = [names] if isinstance(names, str) else names
    meant = {one.name for asked in given for one in survey.meant(asked)}
    return [name for name in survey.subjects if name in meant]


class Proposals(SurveyedModel, Result):
    """Cheaper replacements for a model's convolutions: a sequence of `Proposal`, printed as a table.

    The table has a row for the best proposal of each layer, layers that are alike together; with ``full``
    another has those of every rule. With ``sort`` or ``top``, and as data, each proposal has a row.
    """

    def document(self, asked: Asked) -> Document:
        """The tables; the schema is stated in `archcost.rewriting.reports.proposals`."""
        return document_of(self, asked)

    def measured(
        self,
        inputs: Inputs = None,
        *,
        seconds: float = 60.0,
        store: Store | str | os.PathLike[str] | Literal[False] | None = None,
        progress: bool | None = None,
    ) -> Proposals:
        """The proposals with old and new layers timed in turns on this machine, and the times stored.

        Args:
            inputs: inputs of the model; by default random ones of the traced shapes.
            seconds: time limit, roughly; proposals that it does not reach are returned as they are.
            store: the store to write to; by default that of `propose`.
            progress: draw a progress bar on stderr; by default on a terminal.

        Raises:
            ModelError: the model no longer exists, or is on `meta`.
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
