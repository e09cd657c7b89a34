"""The stages of `archcost.optimize`: spectra, responses, new weights, refit and check."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import Tensor, nn

from archcost.analysis.analysis import Analysis, analyze
from archcost.latency.timing.deadline import Deadline, TooLittleTime
from archcost.latency.timing.thresholds import UNRELIABLE
from archcost.optimizing.calibration import Calibration
from archcost.optimizing.candidates import Candidate, candidates_of
from archcost.optimizing.carrying import Weights, composed, exchanged, weights_of
from archcost.optimizing.correcting import corrected
from archcost.optimizing.data import Data, limited
from archcost.optimizing.layers import Layer
from archcost.optimizing.limits import Limits, totals_of
from archcost.optimizing.optimized import Optimized, Row, Trial
from archcost.optimizing.planning import Choosing, Selection
from archcost.optimizing.refitting import refitted
from archcost.optimizing.sensitivity import Response, moved_by, responses
from archcost.optimizing.statistics import Sampled, Statistics, collected, in_parts
from archcost.optimizing.timing import Times, whole
from archcost.optimizing.verify import moved, outputs_for
from archcost.progress import Progress
from archcost.rewriting.plan.plan import Plan
from archcost.rewriting.plan.recording import proposal_for
from archcost.rewriting.racing import raced
from archcost.rewriting.replacement import Replacement
from archcost.surgery.copying import copied
from archcost.surgery.sites import Hooks
from archcost.trace.call import Call

__all__ = ["Carried", "Planned", "Task"]

_PROBED = 64
"""Inputs on which sensitivities are measured."""
_CORRECTING = 20.0
"""Seconds for computing weights whose errors correct those of the spectra."""
_ROUNDS = 2
"""Rounds in which the response to the chosen errors themselves is measured."""


@dataclass(eq=False)
class Planned:
    """The layers' candidates, the responses to their errors, and the whole model's resources."""

    totals: Mapping[str, float]
    candidates: Mapping[str, Sequence[Candidate]]
    response: Mapping[str, Response]
    seconds: Mapping[str, float]


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
    calibration: Calibration | None
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

    @property
    def has_statistics(self) -> bool:
        return self.data is not None or self.calibration is not None

    def planned(self, timed: bool) -> Planned:
        """Candidates with their errors and, where the latency is limited, their times."""
        with self.timed("spectra"):
            self.find_candidates()
        candidates: Mapping[str, Sequence[Candidate]] = self.candidates
        seconds: dict[str, float] = {}
        totals = totals_of(self.analysis)
        if timed:
            with self.timed("times"):
                seconds, candidates = Times(self.model, self.call).of(self.layers, self.candidates)
                totals = totals_of(
                    self.analysis, max(whole(self.model, self.call), 1.02 * sum(seconds.values()))
                )
        with self.timed("sensitivities"):
            return Planned(totals, candidates, self.responses(), seconds)

    def find_candidates(self) -> None:
        """The candidates of all layers, from statistics that are held part by part."""
        modules = {one.name: one.module for one in self.open}
        parts = in_parts(modules, self.ceiling) if self.has_statistics else [list(modules)]
        by_name = {one.name: one for one in self.open}
        deadline = Deadline(_CORRECTING)
        with Progress(len(modules) or 1, "spectra", self.progress) as bar:
            for part in parts:
                seen = self.statistics(part) if self.has_statistics else {}
                for name in part:
                    layer, own = by_name[name], seen.get(name)
                    made = candidates_of(layer, own, rules=self.rules)
                    part_of = deadline.within(2 * _CORRECTING / len(modules))
                    self.candidates[name] = corrected(layer, made, own, part_of)
                    bar.step()
                if len(parts) == 1:
                    self.kept = dict(seen)
        if len(parts) > 1:
            self.notes.append(
                f"covariances of all layers take more than {self.ceiling / 2**20:.0f} MiB: they were "
                f"collected in {len(parts)} passes over the data, and again for the layers chosen"
            )

    def statistics(self, names: Sequence[str]) -> dict[str, Statistics]:
        """The statistics of some layers' inputs; those that are not called with the data are left out."""
        known = {name: self.kept[name] for name in names if name in self.kept}
        if len(known) == len(names):
            return known
        if self.calibration is not None:
            return self.calibration.statistics(names, self.model)
        assert self.data is not None
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
        if self.data is None:
            return selections
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
        if not self.has_statistics:
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

    def plan_of(self, made: Carried) -> Plan:
        """The plan of what was carried out."""
        by_name = {one.name: one for one in self.layers}
        chosen = {one.name: one for one in made.selection.candidates}
        return Plan(
            proposal_for(self.analysis, by_name[name].subject, by_name[name].specs, one, chosen[name])
            for name, one in made.replacements.items()
        )

    def result(
        self,
        best: Carried,
        all_: Sequence[Carried],
        limits: Limits,
        accelerate: bool,
        evaluate: Callable[[nn.Module], float] | None,
    ) -> Optimized:
        chosen = {one.name: one for one in best.selection.candidates}
        plan = self.plan_of(best)
        after = replace(analyze(best.model, self.call, progress=False), name=self.analysis.name)
        was, now = totals_of(self.analysis), totals_of(after)
        reached = {name: now[name] / was[name] for name in was if was[name]}
        if "latency" in limits.most:
            with self.timed("times"):
                reached["latency"] = self.ratio(best, limits)
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
            metric=None if evaluate is None else (float(evaluate(self.model)), best.trial.metric or 0.0),
            seconds=self.seconds,
            notes=tuple(self.notes),
        )

    def ratio(self, best: Carried, limits: Limits) -> float:
        """The new model's time over the old one's, in turns; the note holds what was promised."""
        promised = best.selection.spends["latency"] / limits.totals["latency"]
        try:
            found = raced(self.model, best.model, self.call, seconds=10.0)
        except TooLittleTime:
            self.notes.append("old and new model were not timed in turns: the machine was too busy")
            return promised
        reached = 1 / found.speedup
        doubt = f", {UNRELIABLE}" * found.disturbed
        off = abs(reached / promised - 1)
        self.notes.append(
            f"time: {promised:.3g} of the old promised from the layers, {reached:.3g} measured in turns "
            f"({found.old_ms:.3g} ms -> {found.new_ms:.3g} ms{doubt})"
            + f": {off:.0%} apart, as layers alone and in the model take other times"
            * (off > 0.1)
        )
        return reached


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
