"""The proposals of all rules for all convolutions of a survey; no module is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from archcost.errors import ArchcostError, InputError, RewriteError
from archcost.latency.store.store import Store
from archcost.progress import Progress
from archcost.rewriting import rule as rules_
from archcost.rewriting.advice import advice_for
from archcost.rewriting.carry import errors_of_factors, unfolded_of
from archcost.rewriting.proposal import Advice, Proposal, Skipped
from archcost.rewriting.racing import stored_race
from archcost.rewriting.replacement import named_by
from archcost.rewriting.rule import Factorisation, Option, Rewrite, RuleOptions
from archcost.rewriting.survey.places import costs_after, costs_before, new_specs, old_specs
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.rewriting.times import PLAIN, Times
from archcost.weights.unfolded import Unfolded

__all__ = ["Found", "proposal_of", "proposals_of", "with_times"]


@dataclass(frozen=True)
class Found:
    """The proposals, skipped layers and advice for one model."""

    proposals: tuple[Proposal, ...]
    skipped: tuple[Skipped, ...]
    advice: tuple[Advice, ...]
    device: str | None
    """The machine and the threads of the stored times; None without a store."""


def proposals_of(
    survey: Survey,
    *,
    rules: Sequence[str] | str | None = None,
    ratios: Iterable[float] | float = 0.5,
    names: Iterable[str] | None = None,
    errors: bool = True,
    progress: bool | None = None,
) -> Found:
    """Every proposal of the rules for the convolutions of a model, and why rules skip the others.

    Times come from the survey's store; nothing is measured. Where the survey has moments, the error of the
    output is predicted too.

    Args:
        rules: names of rules; by default all.
        ratios: the MACs asked for, as a share of those of each layer.
        names: first names of the layers to rewrite; by default all.
        errors: compute the error of the weights; large layers take seconds.
    """
    named = (rules,) if isinstance(rules, str) else rules
    chosen = [rules_.get(name) for name in (rules_.available() if named is None else named)]
    shares = _ratios(ratios)
    asked = [survey.subjects[name] for name in (survey.subjects if names is None else names)]
    skipped: list[Skipped] = []
    found: list[Proposal] = []
    with Progress(len(asked), "proposals", progress) as bar:
        for subject in asked:
            if subject.refusal is not None:
                skipped.append(Skipped(subject.name, subject.type_name, None, subject.refusal.reason))
            else:
                unfolded = unfolded_of(survey.model.get_submodule(subject.name)) if errors else None
                for rule in chosen:
                    try:
                        made, why = _proposed(rule, subject, shares, errors, unfolded)
                    except Exception as error:  # whatever somebody's rule raises: of this place alone
                        own = isinstance(error, ArchcostError)
                        said = str(error) if own else f"{type(error).__name__}: {error}"
                        made, why = [], f"the rule failed: {said}"
                    found += made
                    if why is not None:
                        skipped.append(Skipped(subject.name, subject.type_name, rule.name, why))
            bar.step()
    proposals, device = with_times(found, survey.store)
    return Found(tuple(proposals), tuple(skipped), tuple(advice_for(asked, proposals)), device)


def _proposed(
    rule: Rewrite,
    subject: Subject,
    ratios: Sequence[float],
    errors: bool,
    unfolded: Unfolded | None,
) -> tuple[list[Proposal], str | None]:
    why = rule.refusal(subject)
    if why is not None:
        return [], why.reason
    seen: list[RuleOptions] = []
    made: list[Proposal] = []
    for ratio in ratios:
        for options in rule.options(subject, ratio):
            if options not in seen:
                seen.append(options)
                made.append(proposal_of(rule, subject, options, errors=errors, unfolded=unfolded))
    return made, None if made else "it saves MACs at no size"


def proposal_of(
    rule: Rewrite,
    subject: Subject,
    options: Mapping[str, Option],
    *,
    errors: bool = True,
    unfolded: Unfolded | None = None,
) -> Proposal:
    """The proposal of a rule for a layer with some options, with its errors where the weights have values.

    Args:
        unfolded: the layer's kernel (`unfolded_of`), to share its factorisations among proposals.

    Raises:
        RewriteError: the options are not valid for this layer.
    """
    try:
        replacement = rule.replacement(subject, **options)
    except TypeError as error:
        raise RewriteError(f"{subject.name}: {rule.name} does not take {dict(options)}: {error}") from error
    survey = subject.survey
    module = survey.model.get_submodule(subject.name)
    lost: tuple[float | None, ...] = None, None
    there = errors and not any(p.is_meta for p in module.parameters())
    if there and isinstance(rule, Factorisation) and not replacement.exact:
        lost = errors_of_factors(rule, module, replacement, survey.moments.get(subject.name), unfolded)
    weight_error, output_error = (None if one is None or not isfinite(one) else one for one in lost)
    return Proposal(
        rule=rule.name,
        options=dict(options),
        type_name=subject.type_name,
        shape=subject.spec.layer,
        replacement=replacement,
        old=old_specs(subject, replacement),
        new=new_specs(subject, replacement),
        before=costs_before(subject, replacement),
        after=costs_after(subject, replacement),
        weight_error=weight_error,
        output_error=output_error,
        dtype=str(subject.ops[0].args[0].dtype).removeprefix("torch."),
        types=tuple(type(survey.model.get_submodule(name)).__name__ for name in named_by(replacement)),
    )


def _ratios(ratios: Iterable[float] | float) -> tuple[float, ...]:
    given = (ratios,) if isinstance(ratios, (int, float)) else tuple(ratios)
    for ratio in given:
        if not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not 0 < ratio <= 1:
            raise InputError(f"ratio: {ratio!r} is not a share of a layer's MACs, above 0 and at most 1")
    if not given:
        raise InputError("ratio: none is given; 0.5 asks for half the MACs of each layer")
    return given


def _way(one: Proposal) -> tuple[str, str]:
    """The path and the layout of the new layers."""
    if one.rule != "layout":
        return PLAIN
    return str(one.options.get("path", PLAIN[0])), str(one.options.get("layout", PLAIN[1]))


def with_times(proposals: Sequence[Proposal], store: Store | None) -> tuple[list[Proposal], str | None]:
    """The proposals with stored times: of single convolutions, and of old and new layers in turns."""
    if store is None:
        return list(proposals), None
    times = Times(store)
    timed = [
        replace(
            one,
            before=times.of(one.before, one.old, one.dtype),
            after=times.of(one.after, one.new, one.dtype, _way(one)),
            race=stored_race(store, one),
        )
        for one in proposals
    ]
    return timed, times.device
