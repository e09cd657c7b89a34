"""optimize: the best model within a budget, its weights carried over, and the outputs held to account."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from archcost.analysis.analysis import Analysis, analyze
from archcost.analysis.budget import Budget
from archcost.errors import InputError, ModelError
from archcost.optimizing.candidates import RULES, Candidate, candidates_of
from archcost.optimizing.carrying import Weights, composed, exchanged, weights_of
from archcost.optimizing.data import Data, data_of, limited
from archcost.optimizing.layers import Layer, layers_of
from archcost.optimizing.limits import Limits, limits_of, totals_of
from archcost.optimizing.optimized import Optimized, Row, Trial
from archcost.optimizing.planning import Choosing, Selection
from archcost.optimizing.refitting import refitted
from archcost.optimizing.sensitivity import Response, moved_by, responses
from archcost.optimizing.statistics import CEILING, Statistics, collected, in_parts
from archcost.optimizing.untrained import untrained
from archcost.optimizing.verify import moved, outputs_for
from archcost.progress import Progress
from archcost.rewriting.plan.plan import Plan
from archcost.rewriting.plan.recording import proposal_for
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.survey.survey import survey_of
from archcost.surgery.copying import copied
from archcost.trace.call import Call, Inputs, like_traced
from archcost.trace.modules import as_written, check_model, check_values

if TYPE_CHECKING:
    from archcost.surgery.sites import Hooks
    from archcost.trace.inputs import InputSize

__all__ = ["optimize"]

_PROBED = 64
"""Inputs on which sensitivities are measured."""
_ROUNDS = 2
"""Rounds in which the response to the chosen errors themselves is measured."""


def optimize(
    model: nn.Module,
    inputs: Inputs = None,
    *,
    budget: Budget | Mapping[str, Any] | float,
    batches: Iterable[Inputs] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    rules: Sequence[str] | None = None,
    exclude: Iterable[str] = (),
    refit: bool = True,
    trials: int = 6,
    accelerate: bool = False,
    hooks: Hooks = "refuse",
    random_weights: bool = False,
    memory: int = CEILING,
    input_size: InputSize | None = None,
    progress: bool | None = None,
) -> Optimized:
    """The best model within a budget that archcost can make of a trained one, without labels.

    >>> small = archcost.optimize(model, images[:1], budget=archcost.Budget(macs=0.5), batches=images) \
    # doctest: +SKIP

    Every convolution and linear layer may become a cheaper chain of two or three, of a rank on a fine grid.
    One candidate at most is chosen for each layer, by a multiple-choice knapsack over the errors that the
    spectra of the layers under the covariance of their inputs predict, weighted by how far the model's
    outputs respond to them. Weights come in closed form; then every layer, those that stay included, is
    refitted in order to the old model's outputs. A few selections under different models of the error are
    carried out, and the one whose outputs move least on held-out inputs is kept.

    Args:
        model: on the CPU or a GPU, with trained weights; it ends unchanged.
        inputs, input_size: as in `archcost.analyze`: the size that costs are counted for.
        budget: the most that the result may cost: shares of the whole model up to 1, else numbers;
            ``Budget(macs=0.5, params="4M")``, a mapping, or a share of the MACs.
        batches: unlabelled inputs, each batch as the model takes it; a tensor is one batch. Some hundred are
            enough; every fourth is held out. None: from the weights alone, without refit or check.
        evaluate: your own metric of a model, larger is better; it decides between selections.
        rules: names of the rules to choose from; by default ``bottleneck``, ``asymmetric`` and ``low_rank``
            (of linear layers).
        exclude: names or patterns of layers that stay as they are.
        refit: fit all layers to the old model's outputs.
        trials: the most selections to carry out.
        accelerate: run `archcost.accelerate` on the result.
        hooks: as in `archcost.rewrite`.
        random_weights: go on where the weights seem untrained.
        memory: most bytes of covariances held at once.
        progress: draw a progress bar on stderr; by default on a terminal.

    Returns:
        The new model with its plan, the comparison, and what was traded. Ctrl-C while selections are carried
        out gives back the best so far.

    Raises:
        InputError: an argument is not valid, or the inputs do not fit the model.
        ModelError: the model cannot be traced, is compiled, has no values, or seems untrained.
        RewriteError: the budget cannot be kept; the message says the least reachable, and what blocks it.
        SpecError: an unknown rule or layer.
    """
    asked = _budget(budget)
    task = _task(model, inputs, batches, hooks, random_weights, input_size, exclude, rules, memory, progress)
    limits = limits_of(asked, totals_of(task.analysis))
    with task.timed("spectra"):
        task.find_candidates()
    with task.timed("sensitivities"):
        response = task.responses()
    choosing = Choosing(task.layers, task.candidates, limits, response)
    with task.timed("choice"):
        selections = choosing.selections(task.rules)
        if task.data is not None:
            selections = task.measured(choosing, selections)
    best, all_ = task.carried(selections[:trials], evaluate, refit)
    return task.result(best, all_, limits, accelerate)


def _budget(given: Budget | Mapping[str, Any] | float) -> Budget:
    if isinstance(given, Budget):
        return given
    if isinstance(given, Mapping):
        return Budget.of(given, "budget: ")
    return Budget(macs=given)


@dataclass
class Carried:
    """A selection carried out."""

    selection: Selection
    model: nn.Module
    trial: Trial
    replacements: Mapping[str, Replacement]
    fits: Mapping[str, tuple[float, float]]

    @property
    def rank(self) -> float:
        """Smaller is better."""
        if self.trial.metric is not None:
            return -self.trial.metric
        return 0.0 if self.trial.moved is None else self.trial.moved.score


@dataclass(eq=False)
class Task:
    """What the stages share."""

    model: nn.Module
    analysis: Analysis
    call: Call
    layers: tuple[Layer, ...]
    data: Data | None
    rules: tuple[str, ...]
    ceiling: int
    hooks: Hooks
    progress: bool | None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    candidates: dict[str, list[Candidate]] = field(default_factory=dict)
    kept: dict[str, Statistics] = field(default_factory=dict)
    """Statistics of the layers, where those of all fit under the ceiling."""
    old: list[list[Tensor]] = field(default_factory=list)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - begin

    @property
    def open(self) -> list[Layer]:
        return [one for one in self.layers if one.refusal is None]

    def find_candidates(self) -> None:
        """The candidates of all layers, from statistics that are held part by part."""
        modules = {one.name: one.module for one in self.open}
        parts = in_parts(modules, self.ceiling) if self.data is not None else [list(modules)]
        by_name = {one.name: one for one in self.open}
        with Progress(len(modules) or 1, "spectra", self.progress) as bar:
            for part in parts:
                seen = self.statistics(part) if self.data is not None else {}
                for name in part:
                    self.candidates[name] = candidates_of(by_name[name], seen.get(name), rules=self.rules)
                    bar.step()
                if len(parts) == 1:
                    self.kept = dict(seen)
        if len(parts) > 1:
            self.notes.append(
                f"covariances of all layers take more than {self.ceiling / 2**20:.0f} MiB: they were collected "
                f"in {len(parts)} passes over the data, and again for the layers chosen"
            )

    def statistics(self, names: Sequence[str]) -> dict[str, Statistics]:
        """The statistics of some layers' inputs; those that are not called with the data are left out."""
        assert self.data is not None
        known = {name: self.kept[name] for name in names if name in self.kept}
        if len(known) == len(names):
            return known
        from archcost.optimizing.statistics import Sampled

        found = collected(
            self.model, names, list(self.data.fitted), ceiling=self.ceiling, progress=self.progress
        )
        sampled = [name for name, one in found.items() if isinstance(one, Sampled)]
        if sampled:
            note = (
                f"{', '.join(sampled)}: the covariance alone would take more than half of "
                f"{self.ceiling / 2**20:.0f} MiB; sampled patches stand for it"
            )
            if note not in self.notes:
                self.notes.append(note)
        return found

    def responses(self) -> dict[str, Response]:
        """How far the outputs respond to errors of each layer, on data or on random inputs."""
        pieces = [self.call] if self.data is None else limited(self.data.fitted, _PROBED)
        open_ = [one for one in self.open if self.candidates.get(one.name)]
        if not open_:
            return {}
        return responses(self.model, open_, pieces, 5.0 if self.data is None else 60.0)

    def measured(self, choosing: Choosing, selections: list[Selection]) -> list[Selection]:
        """The selections, with those after measuring the response to the errors chosen first."""
        assert self.data is not None
        by_name = {one.name: one for one in self.layers}
        pieces = limited(self.data.fitted, _PROBED)
        now, more = selections[0], list[Selection]()
        for round_ in range(_ROUNDS):
            changed: dict[str, Tensor] = {}
            for part, seen in self.by_part(now):
                for one in part:
                    layer = by_name[one.name]
                    changed[one.name] = composed(layer, *weights_of(layer, one, seen.get(one.name)))
            found = moved_by(self.model, changed, by_name, pieces)
            for one in now.candidates:
                if one.name in found:
                    choosing.response[one.name].add(one.error, found[one.name])
            now = choosing.within(f"measured response, round {round_ + 1}", choosing.sensitive)
            if now.key not in {one.key for one in (*selections, *more)}:
                more.append(now)
        return [*reversed(more), *selections]

    def by_part(self, selection: Selection) -> Iterator[tuple[list[Candidate], Mapping[str, Statistics]]]:
        """The candidates of a selection in groups, with the statistics of their layers."""
        chosen = {one.name: one for one in selection.candidates}
        if self.data is None:
            yield list(chosen.values()), {}
            return
        modules = {one.name: one.module for one in self.layers if one.name in chosen}
        for part in in_parts(modules, self.ceiling):
            yield [chosen[name] for name in part], self.statistics(part)

    def carried(
        self, selections: Sequence[Selection], evaluate: Callable[[nn.Module], float] | None, refit: bool
    ) -> tuple[Carried, list[Carried]]:
        """The best of the selections, and all that were carried out; Ctrl-C ends it with those so far."""
        done: list[Carried] = []
        if self.data is not None:
            self.old = outputs_for(self.model, self.data.held_out)
        try:
            for selection in selections if self.data is not None or evaluate else selections[:1]:
                done.append(self.carry_out(selection, evaluate, refit))
        except KeyboardInterrupt:
            if not done:
                raise
            self.notes.append(f"interrupted after {len(done)} of {len(selections)} selections")
        done.sort(key=lambda one: one.rank)
        return done[0], done

    def carry_out(
        self, selection: Selection, evaluate: Callable[[nn.Module], float] | None, refit: bool
    ) -> Carried:
        """A selection carried out on a copy of the model, refitted and compared."""
        by_name = {one.name: one for one in self.layers}
        work = copied(self.model)
        made: dict[str, tuple[Replacement, Weights]] = {}
        with self.timed("weights"):
            for part, seen in self.by_part(selection):
                for one in part:
                    made[one.name] = weights_of(by_name[one.name], one, seen.get(one.name))
            exchanged(work, made, self.hooks)
        raw = after = None
        fits: dict[str, tuple[float, float]] = {}
        if self.data is not None:
            with self.timed("check"):
                raw = after = moved(outputs_for(work, self.data.held_out), self.old)
            if refit and made:
                with self.timed("refit"):
                    fits = refitted(self.model, work, self.layers, list(self.data.fitted), self.progress)
                with self.timed("check"):
                    after = moved(outputs_for(work, self.data.held_out), self.old)
        metric = None if evaluate is None else float(evaluate(work))
        trial = Trial(selection.label, len(made), raw, after, metric)
        return Carried(selection, work, trial, {name: one for name, (one, _) in made.items()}, fits)

    def result(self, best: Carried, all_: Sequence[Carried], limits: Limits, accelerate: bool) -> Optimized:
        by_name = {one.name: one for one in self.layers}
        chosen = {one.name: one for one in best.selection.candidates}
        plan = Plan(
            proposal_for(self.analysis, by_name[name].subject, by_name[name].specs, one, chosen[name])
            for name, one in best.replacements.items()
        )
        after = replace(analyze(best.model, self.call, progress=False), name=self.analysis.name)
        was, now = totals_of(self.analysis), totals_of(after)
        reached = {name: now[name] / was[name] for name in was if was[name]}
        rows = tuple(_row(one, chosen.get(one.name), best.fits.get(one.name)) for one in self.layers)
        if self.data is not None and not self.data.apart:
            self.notes.append("too few batches to hold any out: the outputs are compared on those fitted to")
        acceleration = None
        model = best.model
        if accelerate:
            from archcost.engine.accelerate import accelerate as make

            with self.timed("accelerate"):
                model = make(model, self.call, progress=self.progress)
            acceleration = model.acceleration
        return Optimized(
            model=model,
            plan=plan,
            before=self.analysis,
            after=after,
            asked={name: limits.share(name) for name in limits.most},
            reached=reached,
            moved=best.trial.moved,
            trials=tuple(one.trial for one in all_),
            rows=rows,
            inputs=self.call,
            acceleration=cast(Any, acceleration),
            seconds=self.seconds,
            notes=tuple(self.notes),
        )


def _row(layer: Layer, one: Candidate | None, fit: tuple[float, float] | None) -> Row:
    shape = f"{layer.spec.in_channels} -> {layer.spec.out_channels}" if layer.linear else layer.spec.layer
    return Row(
        name=layer.name,
        shape=shape,
        rule=None if one is None else one.rule,
        options="" if one is None else ", ".join(f"{key} {value}" for key, value in one.options.items()),
        macs=layer.macs if one is None else one.macs,
        macs_ratio=1.0 if one is None or not layer.macs else one.macs / layer.macs,
        params_ratio=1.0 if one is None or not layer.params else one.params / layer.params,
        error=None if one is None else max(one.error, 0.0) ** 0.5,
        refitted=None if fit is None else fit[1],
    )


def _task(
    model: nn.Module,
    inputs: Inputs,
    batches: Iterable[Inputs] | None,
    hooks: Hooks,
    random_weights: bool,
    input_size: InputSize | None,
    exclude: Iterable[str],
    rules: Sequence[str] | None,
    ceiling: int,
    progress: bool | None,
) -> Task:
    check_model(model, InputError, "optimize: ")
    if as_written(model) is not model:
        raise ModelError("optimize: the model is compiled: optimize model._orig_mod, and compile the result")
    check_values(model, "optimize")
    if hooks not in ("refuse", "keep"):
        raise InputError(f"optimize: hooks is {hooks!r}; it takes 'refuse' or 'keep'")
    why = None if random_weights else untrained(model)
    if why is not None:
        raise ModelError(
            f"optimize: the weights seem untrained: {why}. Errors mean nothing there; load trained weights, or "
            f"give random_weights=True"
        )
    wanted = _rules(rules)
    data = None if batches is None else data_of(batches)
    if inputs is None and input_size is None and data is not None:
        first = data.fitted[0]
        inputs = first[:1] if isinstance(first, Tensor) else first
    analysis = analyze(model, inputs, input_size=input_size, progress=progress)
    call = like_traced(analysis.trace) if inputs is None else Call.of(inputs)
    survey = survey_of(analysis, hooks=hooks)
    layers = layers_of(survey, exclude)
    return Task(model, analysis, call, layers, data, wanted, ceiling, hooks, progress)


def _rules(rules: Sequence[str] | None) -> tuple[str, ...]:
    if rules is None:
        return RULES
    given = (rules,) if isinstance(rules, str) else tuple(rules)
    for name in given:
        if name not in RULES:
            raise InputError(f"optimize: rules has {name!r}; it plans {', '.join(RULES)}")
    if not given:
        raise InputError("optimize: rules is empty; leave it out for all")
    return given
