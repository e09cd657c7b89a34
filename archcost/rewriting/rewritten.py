"""rewrite: a model with cheaper layers in place of the old ones, and the Rewritten it returns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NoReturn

from archcost.analysis.analysis import analyze
from archcost.errors import InputError, ModelError, RewriteError
from archcost.report.document import Asked, Document
from archcost.report.result import Result
from archcost.rewriting.proposal import Proposal, Skipped
from archcost.rewriting.replacement import Option
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
    from archcost.trace.call import Inputs
    from archcost.trace.inputs import InputSize
    from archcost.weights.moments import Moments

__all__ = ["Rewritten", "rewrite"]

Choice = str | tuple[str, Mapping[str, Option]] | Proposal
Choices = Mapping[str, Choice] | Iterable[Proposal]

# The ratios tried for each layer where a budget is shared out.
_RATIOS = (0.15, 0.25, 0.35, 0.5, 0.65, 0.8)
# Bytes of covariances, where those of all layers are held at once.
_MOST_BYTES = 2**30


def rewrite(
    model: nn.Module,
    inputs: Inputs = None,
    choices: Choices | None = None,
    *,
    rules: Sequence[str] | None = None,
    ratio: float = 0.5,
    budget: float | None = None,
    batches: Iterable[Inputs] | None = None,
    inplace: bool = False,
    hooks: Hooks = "refuse",
    store: Store | str | os.PathLike[str] | Literal[False] | None = None,
    input_size: InputSize | None = None,
    progress: bool | None = None,
) -> Rewritten:
    """A model with cheaper layers whose weights come from the trained ones, so that outputs stay close.

    >>> new = archcost.rewrite(model, inputs, {"features.3": "asymmetric"})     # doctest: +SKIP
    >>> new = archcost.rewrite(model, inputs, rules=["separable"], batches=images)  # doctest: +SKIP

    Args:
        model: on the CPU or a GPU, with values.
        inputs, input_size: as in `archcost.analyze`; old and new layers are compared on them in a forward
            pass, so realistic values say most.
        choices: a mapping from a layer's name (or a pattern, ``"features.*"``) to a rule, a rule with options
            ``("bottleneck", {"form": "out", "rank_out": 16})``, or a `Proposal`; or an iterable of proposals,
            such as a `Plan`.
        rules: names of rules, instead of ``choices``: every layer gets their best proposal, if any.
        ratio: the MACs asked for, as a share of those of each layer, above 0 and at most 1.
        budget: with ``rules``, instead of ``ratio``: the MACs asked for as a share of those of all layers
            that the rules apply to; layers with smaller errors are reduced further.
        batches: calibration data: unlabelled inputs, each as the model takes it. The new weights then
            minimise the error of the layers' outputs, not of the kernels. A few hundred images are enough.
        inplace: change the model itself; ``undo()`` restores it.
        hooks: "keep": new layers take over the hooks of the old ones; "refuse": layers with hooks are
            skipped.
        store: the store of measured times, as in `archcost.propose`: ``rules`` never choose a proposal that
            was slower on this machine.
        progress: draw a progress bar on stderr; by default on a terminal.

    Returns:
        The new model, the plan, the errors of every new layer, and the layers that were skipped.

    Raises:
        InputError: an argument is not valid, or the inputs do not fit the model.
        ModelError: the model cannot be traced, is compiled, or has no values.
        RewriteError: a choice fails; the message says where and why, and the model is unchanged.
        SpecError: an unknown rule or layer.
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
    from archcost.weights.features import listed

    check_model(model, InputError, "rewrite: ")
    if as_written(model) is not model:
        raise ModelError("rewrite: the model is compiled: rewrite model._orig_mod, and compile the result")
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
    data = None if batches is None else listed(batches)
    skipped: tuple[Skipped, ...] = ()
    with opened(store) as there:
        survey = survey_of(analysis, hooks=hooks, store=there)
        survey.moments.update(_moments(survey, choices, data, progress))
        if rules is not None:
            ratios = ratio if budget is None else _RATIOS
            found = proposals_of(survey, rules=rules, ratios=ratios, progress=progress)
            proposals = found.proposals
            plan = Plan(best_of(proposals, ratio) if budget is None else within_budget(proposals, budget))
            skipped = (*found.skipped, *_passed_over(proposals, plan))
        else:
            plan = Plan(_chosen(survey, choices, ratio))
    original = copied(model) if inplace and data is not None else model
    work = model if inplace else copied(model)
    task = Application(original, work, plan, call, data, survey.moments, hooks, choices is not None, progress)
    applied, outcomes = carried_out(task)
    failed = {one.proposal.name for one in outcomes if one.problem is not None}
    skipped += tuple(_fell_short(outcomes))
    if choices is not None and failed:
        applied.undo()
        raise RewriteError(
            "; ".join(f"{one.name!r} cannot be done by {one.rule}: {one.reason}" for one in skipped)
        )
    return Rewritten(
        model=work,
        plan=plan.without(failed),
        before=analysis,
        outcomes=tuple(one for one in outcomes if one.problem is None),
        skipped=skipped,
        inputs=call,
        original=None if inplace else model,
        applied=applied,
        notes=table.notes,
    )


class Rewritten(RewrittenModel, Result):
    """The result of `rewrite`: the new model, its plan, and the errors, costs and times of the change.

    ``print`` it, or take it as pandas, markdown, CSV, JSON or HTML, with a row for each new layer. A saved
    file has everything but the models and their inputs.
    """

    SAVED = ("plan", "before", "after", "outcomes", "skipped", "output_error", "notes", "speed")

    @classmethod
    def restored(cls, **held: object) -> Rewritten:
        """A result from the attributes in a file (`archcost.report.saving`)."""
        found = object.__new__(cls)
        vars(found).update(held)
        return found

    if not TYPE_CHECKING:  # to mypy, every attribute would be there

        def __getattr__(self, name: str) -> NoReturn:
            """Explain which attributes a result read from a file has not."""
            if name in ("model", "original", "inputs", "applied"):
                raise ModelError(
                    f"{self.before.name}: a saved rewrite has no {name}: load or build the old model again, "
                    f"and plan.apply(model) makes the new one"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def document(self, asked: Asked) -> Document:
        """The tables; the schema is stated in `archcost.rewriting.reports.rewritten`."""
        return document_of(self, asked)

    def undo(self) -> None:
        """Put the old layers back into the model that was changed (in place, or the copy)."""
        self.applied.undo()

    def race(self, seconds: float = 20.0) -> Raced:
        """Time the old and the new model in turns on the inputs given; reports show it as `speed`.

        Args:
            seconds: time limit, roughly.

        Raises:
            RewriteError: the model was changed in place, so there is no old one.
            TooLittleTime: fewer than five pairs were timed in that time.
        """
        from archcost.rewriting.racing import raced

        if self.original is None:
            raise RewriteError(
                "race: the model was changed in place, so there is no old one to time: rewrite with "
                "inplace=False"
            )
        found = raced(self.original, self.model, self.inputs, seconds=seconds)
        object.__setattr__(self, "speed", found)
        return found


def _fell_short(outcomes: Iterable[Outcome]) -> Iterator[Skipped]:
    """Layers where a rewrite failed, or was not fitted to the data."""
    for outcome in outcomes:
        one, said = outcome.proposal, outcome.problem
        if said is None and outcome.unfitted is not None:
            said = f"rewritten from the weights alone, not fitted to the data: {outcome.unfitted}"
        if said is not None:
            yield Skipped(one.name, one.type_name, one.rule, said)


def _passed_over(proposals: Iterable[Proposal], plan: Plan) -> Iterator[Skipped]:
    """Layers with proposals, none of which was chosen."""
    from archcost.rewriting.proposal import overlap

    taken = [name for one in plan for name in one.replacement.chains]
    seen: set[tuple[str, str]] = set()
    for one in proposals:
        if (one.name, one.rule) in seen or any(overlap(one.name, name) for name in taken):
            continue
        seen.add((one.name, one.rule))
        unknown = "its error is not known; choose it by the layer's name"
        why = one.objection or (unknown if one.error is None else "not needed for the budget")
        yield Skipped(one.name, one.type_name, one.rule, f"proposed but not chosen: {why}")


def _moments(
    survey: Survey, choices: Choices | None, data: list[Inputs] | None, progress: bool | None
) -> Mapping[str, Moments]:
    """Moments of the inputs of all layers that may be rewritten; none where they take too much memory."""
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


def _chosen(survey: Survey, choices: Choices | None, ratio: float) -> Iterable[Proposal]:
    """The proposals named by ``choices``."""
    if isinstance(choices, Mapping):
        pairs = choices.items()
        return [one for name, choice in pairs for one in _one(survey, name, choice, ratio)]
    given = tuple(choices or ())
    wrong = next((one for one in given if not isinstance(one, Proposal)), None)
    if wrong is not None:
        raise InputError(f"rewrite: choices hold {wrong!r}; give proposals, or a mapping from names to rules")
    return given


def _one(survey: Survey, name: str, choice: Choice, ratio: float) -> list[Proposal]:
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
            raise RewriteError(f"{subject.name!r} cannot be rewritten by {rule}: {found.skipped[-1].reason}")
        made += best_of(found.proposals, ratio) or found.proposals[:1]
    if not made:
        raise RewriteError(f"rewrite: no layer matching {name!r} can be rewritten by {rule}")
    return made


def _with_options(name: str, choice: Choice) -> tuple[str, Mapping[str, Option]]:
    if isinstance(choice, tuple) and len(choice) == 2 and isinstance(choice[1], Mapping):
        return str(choice[0]), choice[1]
    raise InputError(
        f"rewrite: the choice for {name!r} is {choice!r}; give a rule, (rule, {{options}}) or a Proposal"
    )
