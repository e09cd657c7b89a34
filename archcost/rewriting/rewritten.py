"""rewrite: a model with cheaper layers in place of the old ones, and the Rewritten it returns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from archcost.analysis.analysis import analyze
from archcost.errors import InputError, ModelError, RewriteError
from archcost.report.document import Asked, Document
from archcost.report.result import Result
from archcost.rewriting.proposal import Proposal, Stays
from archcost.rewriting.reports.rewritten import document_of
from archcost.rewriting.results import RewrittenModel

if TYPE_CHECKING:
    from torch import nn

    from archcost.latency.store.store import Store
    from archcost.rewriting.plan.applying import Outcome
    from archcost.rewriting.plan.plan import Plan
    from archcost.rewriting.proposal import Raced
    from archcost.rewriting.survey.survey import Survey
    from archcost.surgery.sites import Hooks
    from archcost.weights.moments import Moments

__all__ = ["Rewritten", "rewrite"]

Choice = str | tuple[str, Mapping[str, Any]] | Proposal
Choices = Mapping[str, Choice] | Iterable[Proposal]

# What layers may be cut to where a budget is for all of them together.
_RATIOS = (0.15, 0.25, 0.35, 0.5, 0.65, 0.8)
# Of covariances, where those of all layers are held at once.
_MOST_BYTES = 2**30


def rewrite(
    model: nn.Module,
    inputs: Any = None,
    choices: Choices | None = None,
    *,
    rules: Sequence[str] | None = None,
    ratio: float = 0.5,
    budget: float | None = None,
    batches: Iterable[Any] | None = None,
    inplace: bool = False,
    hooks: Hooks = "refuse",
    store: Store | str | os.PathLike[str] | Literal[False] | None = None,
    input_size: Any = None,
    progress: bool | None = None,
) -> Rewritten:
    """The model with cheaper layers, the trained weights carried over; outputs close to the old ones.

    >>> new = archcost.rewrite(model, inputs, {"features.3": "asymmetric"})     # doctest: +SKIP
    >>> new = archcost.rewrite(model, inputs, rules=["separable"], batches=images)  # doctest: +SKIP

    Args:
        inputs: as in `archcost.analyze`; one pass says what every layer gets, and what the new ones make of
            it is compared with that. Values like those that the model is for say most.
        choices: by the name of a layer (or a pattern, ``"features.*"``) a rule, a rule with its options
            ``("bottleneck", {"rank": 16})``, or a `Proposal`; or the proposals alone, as a `Plan` is.
        rules: in place of choices: wherever one of them applies, the proposal with the smallest error.
        ratio: the MACs wanted, as a share of those of each layer.
        budget: with ``rules``, in place of ``ratio``: the MACs wanted of all layers that they apply to,
            together; layers that lose less give more.
        batches: unlabelled inputs, each as the model takes it: the weights are then chosen so that the
            outputs of the layers stay, and not the kernels. A few hundred images do.
        inplace: change the model itself; ``undo()`` takes it back.
        hooks: "keep" has the new layers take over the hooks of the old ones; else those layers stay.
        store: where measured times are looked up: what was slower here is not taken by ``rules``.

    Raises:
        InputError: an argument makes no sense, or the inputs do not fit.
        ModelError: the model cannot be traced, is compiled, or has no values.
        RewriteError: a choice cannot be done; the message says where and why. Nothing has changed then.
        SpecError: no such rule, or no such layer.
    """
    from archcost.latency.store.store import opened
    from archcost.rewriting.budget import within_budget
    from archcost.rewriting.plan.applying import Application, carried_out
    from archcost.rewriting.plan.plan import Plan
    from archcost.rewriting.proposal import best_of
    from archcost.rewriting.proposing import proposals_of
    from archcost.rewriting.rule import table
    from archcost.rewriting.survey.survey import survey_of
    from archcost.surgery.copying import copied
    from archcost.trace.call import Call, like_traced
    from archcost.trace.modules import as_written, check_model, check_values

    check_model(model, InputError, "rewrite: ")
    if as_written(model) is not model:
        raise ModelError(
            "rewrite: the model is compiled: rewrite model._orig_mod, and compile what comes of it"
        )
    check_values(model, "rewrite")
    if hooks not in ("refuse", "keep"):
        raise InputError(f"rewrite: hooks is {hooks!r}; it takes 'refuse' or 'keep'")
    if budget is not None and rules is None:
        raise InputError("rewrite: a budget is shared out among layers by rules: give rules, not choices")
    if (choices is None) == (rules is None):
        raise InputError(
            "rewrite: give choices by layer, or rules to apply wherever they fit: one of the two"
        )
    if not (rules if choices is None else choices):
        raise InputError("rewrite: there is nothing to do: no rule or no choice is given")
    analysis = analyze(model, inputs, input_size=input_size, progress=progress)
    call = like_traced(analysis.trace) if inputs is None else Call.of(inputs)
    data = None if batches is None else list(batches)
    stays: tuple[Stays, ...] = ()
    with opened(store) as there:
        survey = survey_of(analysis, hooks=hooks, store=there)
        survey.moments.update(_moments(survey, choices, data, progress))
        if rules is not None:
            ratios = ratio if budget is None else _RATIOS
            found = proposals_of(survey, rules=rules, ratios=ratios, progress=progress)
            proposals = found.proposals
            plan = Plan(best_of(proposals, ratio) if budget is None else within_budget(proposals, budget))
            stays = (*found.stays, *_passed_over(proposals, plan))
        else:
            plan = Plan(_chosen(survey, choices, ratio))
    original = copied(model) if inplace and data is not None else model
    work = model if inplace else copied(model)
    task = Application(original, work, plan, call, data, survey.moments, hooks, choices is not None, progress)
    applied, outcomes = carried_out(task)
    failed = {one.proposal.name for one in outcomes if one.problem is not None}
    stays += tuple(_fell_short(outcomes))
    if choices is not None and failed:
        applied.undo()
        raise RewriteError(
            "; ".join(f"{one.name!r} cannot be done by {one.rule}: {one.reason}" for one in stays)
        )
    return Rewritten(
        model=work,
        plan=plan.without(failed),
        before=analysis,
        outcomes=tuple(one for one in outcomes if one.problem is None),
        stays=stays,
        inputs=call,
        original=None if inplace else model,
        applied=applied,
        notes=table.notes,
    )


class Rewritten(RewrittenModel, Result):
    """What `rewrite` made. ``print`` it, take its parts, or take it as pandas, markdown, CSV, JSON or HTML.

    Data have one row a new layer. What `save` writes has everything but the models and their inputs.
    """

    SAVED = ("plan", "before", "after", "outcomes", "stays", "output_error", "notes", "speed")

    @classmethod
    def restored(cls, **held: Any) -> Rewritten:
        """From what a file has (`archcost.report.saving`)."""
        found = object.__new__(cls)
        vars(found).update(held)
        return found

    if not TYPE_CHECKING:  # to mypy, every attribute would be there

        def __getattr__(self, name: str) -> Any:
            """Only what a file has not is not there."""
            if name in ("model", "original", "inputs", "applied"):
                raise ModelError(
                    f"{self.before.name}: a saved rewrite has no {name}: load or build the old model again, "
                    f"and plan.apply(model) makes the new one"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def document(self, asked: Asked) -> Document:
        """The schema is stated in `archcost.rewriting.reports.rewritten`."""
        return document_of(self, asked)

    def undo(self) -> None:
        """Put the old layers back into a model that was changed in place (or into the copy)."""
        self.applied.undo()

    def race(self, seconds: float = 20.0) -> Raced:
        """Old and new model timed in turns, in one run, on the inputs given; `speed` keeps it for reports.

        Raises:
            RewriteError: the model was changed in place, so there is no old one.
            TooLittleTime: the seconds were up before there were five pairs of both.
        """
        from archcost.rewriting.racing import raced

        if self.original is None:
            raise RewriteError("the model was changed in place: there is no old one to time beside it")
        found = raced(self.original, self.model, self.inputs, seconds=seconds)
        object.__setattr__(self, "speed", found)
        return found


def _fell_short(outcomes: Iterable[Outcome]) -> Iterator[Stays]:
    """Places where what was tried failed, or did less than it could."""
    for outcome in outcomes:
        one, said = outcome.proposal, outcome.problem
        if said is None and outcome.unfitted is not None:
            said = f"done by the weights alone, the data does not reach it: {outcome.unfitted}"
        if said is not None:
            yield Stays(one.name, one.type_name, one.rule, said)


def _passed_over(proposals: Iterable[Proposal], plan: Plan) -> Iterator[Stays]:
    """Layers for which there were proposals, of which none was taken."""
    from archcost.rewriting.proposal import overlap

    taken = [name for one in plan for name in one.replacement.chains]
    seen: set[tuple[str, str]] = set()
    for one in proposals:
        if (one.name, one.rule) in seen or any(overlap(one.name, name) for name in taken):
            continue
        seen.add((one.name, one.rule))
        unknown = "its error is not known: name the layer to have it all the same"
        why = one.objection or (unknown if one.error is None else "the budget is kept without it")
        yield Stays(one.name, one.type_name, one.rule, f"proposed, and not taken: {why}")


def _moments(
    survey: Survey, choices: Any, data: list[Any] | None, progress: bool | None
) -> Mapping[str, Moments]:
    """Of the inputs of all layers that may be rewritten; none where they take too much memory at once."""
    if data is None or (choices is not None and not isinstance(choices, Mapping)):
        return {}
    from archcost.rewriting.plan.applying import moments_of
    from archcost.weights.moments import covariance_bytes

    model = survey.model
    meant = survey if choices is None else [one for one in survey if any(map(one.is_meant_by, choices))]
    names = [one.name for one in meant if one.refusal is None]
    if sum(covariance_bytes(model.get_submodule(name)) for name in names) > _MOST_BYTES:
        return {}
    return moments_of(model, names, data, strict=choices is not None, progress=progress)


def _chosen(survey: Survey, choices: Any, ratio: float) -> Iterable[Proposal]:
    """The proposals that choices mean."""
    if isinstance(choices, Mapping):
        pairs = choices.items()
        return [one for name, choice in pairs for one in _one(survey, name, choice, ratio)]
    given = tuple(choices)
    wrong = next((one for one in given if not isinstance(one, Proposal)), None)
    if wrong is not None:
        raise InputError(f"rewrite: choices hold {wrong!r}, which is no Proposal")
    return given


def _one(survey: Survey, name: str, choice: Any, ratio: float) -> list[Proposal]:
    from archcost.rewriting.proposal import best_of
    from archcost.rewriting.proposing import proposal_of, proposals_of
    from archcost.rewriting.rule import get
    from archcost.rewriting.survey.survey import is_pattern

    if isinstance(choice, Proposal):
        return [choice]
    rule, options = (choice, None) if isinstance(choice, str) else _with_options(name, choice)
    get(rule)
    made: list[Proposal] = []
    for subject in survey.meant(name):
        why = subject.refusal or get(rule).refusal(subject)
        if why is not None:
            if is_pattern(name):
                continue
            raise RewriteError(f"{subject.name!r} cannot be rewritten by {rule}: {why}")
        if options is not None:
            made.append(proposal_of(get(rule), subject, options))
            continue
        found = proposals_of(survey, rules=[rule], ratios=ratio, names=[subject.name], progress=False)
        if not found.proposals and not is_pattern(name):
            raise RewriteError(f"{subject.name!r} cannot be rewritten by {rule}: {found.stays[-1].reason}")
        made += best_of(found.proposals, ratio) or found.proposals[:1]
    if not made:
        raise RewriteError(f"no layer that {name!r} means can be rewritten by {rule}")
    return made


def _with_options(name: str, choice: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(choice, tuple) and len(choice) == 2 and isinstance(choice[1], Mapping):
        return str(choice[0]), choice[1]
    raise InputError(
        f"rewrite: the choice for {name!r} is {choice!r}; give a rule, (rule, {{options}}) or a Proposal"
    )
