"""The stages of `archcost.optimize`: spectra, responses, new weights, refit and check."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import inf
from typing import cast

import torch
from torch import Tensor, nn

from archcost.analysis.analysis import Analysis
from archcost.optimizing.allowance import Allowance
from archcost.optimizing.blocks import Merged
from archcost.optimizing.calibration import Calibration
from archcost.optimizing.candidates import Candidate, candidates_of, key_of
from archcost.optimizing.carrying import Weights, exchanged, weights_of
from archcost.optimizing.correcting import corrected
from archcost.optimizing.data import Data, length, limited
from archcost.optimizing.folding import Folded
from archcost.optimizing.judging import Judge, Verdict
from archcost.optimizing.layers import Layer
from archcost.optimizing.limits import totals_of
from archcost.optimizing.norms import biases_of, shifted
from archcost.optimizing.optimized import Trial
from archcost.optimizing.planning import Planned, Selection
from archcost.optimizing.refitting import refitted
from archcost.optimizing.replaying import Replay
from archcost.optimizing.sensitivity import Response, responses
from archcost.optimizing.statistics import Sampled, Statistics, collected, in_parts
from archcost.optimizing.timing import Times, inside
from archcost.progress import Progress
from archcost.rewriting.replacement import Replacement
from archcost.surgery.copying import copied
from archcost.surgery.sites import Hooks
from archcost.trace.call import Call, Inputs
from archcost.weights.refit import Refit

__all__ = ["Carried", "Task"]

_PROBED, _PASS = (32, 64), 2e10
"""Inputs on which sensitivities are measured, least and most, and the MACs of a pass between."""
_SENSING = 2.5, 20.0
"""Seconds for measuring sensitivities: on random inputs, and on data."""
_CORRECTING = 20.0
"""Seconds for computing weights whose errors correct those of the spectra."""
_KEPT = 2**28
"""Most bytes of computed weights kept for other selections."""
_WORSE = 2.0
"""Standard errors by which held-out outputs move further with a refit that is taken back."""


@dataclass
class Carried:
    """A selection carried out."""

    selection: Selection
    model: nn.Module
    trial: Trial
    fits: Mapping[str, Refit]

    @property
    def rank(self) -> float:
        """Smaller is better."""
        return self.trial.score

    @property
    def error(self) -> float:
        """The share of held-out outputs that change their largest class; their relative error, without."""
        moved = self.trial.moved
        assert moved is not None
        return moved.error if moved.agreement is None else 1 - moved.agreement


@dataclass(eq=False)
class Task:
    """What the stages share."""

    folded: Folded
    given: Analysis
    """Of the given model."""
    merged: Merged
    call: Call
    data: Data | None
    rules: tuple[str, ...]
    calibration: Calibration | None
    ceiling: int
    hooks: Hooks
    progress: bool | None
    seconds: dict[str, float] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the layers inside of the model, where they were measured."""
    notes: list[str] = field(default_factory=list)
    candidates: dict[str, list[Candidate]] = field(default_factory=dict)
    kept: dict[str, Statistics] = field(default_factory=dict)
    """Statistics of the layers, where those of all fit under the ceiling."""
    judges: dict[int, Judge] = field(default_factory=dict)
    """By the first piece that is held out."""
    computed: dict[object, tuple[Replacement, Weights]] = field(default_factory=dict)
    computed_bytes: int = 0
    refitting: Allowance = field(default_factory=lambda: Allowance(inf))
    """Time for refits of the selections within one budget."""
    _replay: Replay | None = None
    """Until selections are carried out."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - begin

    @property
    def analysis(self) -> Analysis:
        """The Analysis of the model with its blocks merged."""
        return self.merged.analysis

    @property
    def model(self) -> nn.Module:
        """The model that is planned for, with norms folded."""
        return self.folded.model

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.folded.layers

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
        seconds: Mapping[str, float] = {}
        totals, given = totals_of(self.analysis), totals_of(self.given)
        if timed:
            with self.timed("times"):
                now, was = self.folded.given, self.given.model
                times, candidates = Times(self.model, self.call).of(self.layers, self.candidates, now)
                seconds, totals["latency"] = times.layers, times.whole
                self.times = seconds
                given["latency"] = times.whole if now is was else inside({"": was}, (), self.call)[""].whole
        with self.timed("sensitivities"):
            return Planned(totals, given, candidates, self.responses(), seconds, totals.get("latency", 0.0))

    @property
    def replay(self) -> Replay:
        """The model's outputs for the inputs on which sensitivities are measured, and those of its layers."""
        if self._replay is None:
            pieces = (self.call,) if self.data is None else self.probed(self.data.fitted)
            self._replay = Replay(self.model, pieces)
        return self._replay

    def probed(self, pieces: Sequence[Inputs], share: float = 1.0) -> tuple[Inputs, ...]:
        """The first inputs, fewer where a model is large; as many times ``share``."""
        least, most = _PROBED
        each = self.analysis.total.macs / max(1, length(self.call))
        return limited(pieces, int(share * max(least, min(most, int(_PASS / max(1, each))))))

    def find_candidates(self) -> None:
        """The candidates of all layers, from statistics that are held part by part."""
        modules = {one.name: one.module for one in self.open}
        parts = in_parts(modules, self.ceiling) if self.has_statistics else [list(modules)]
        by_name = {one.name: one for one in self.open}
        allowance = Allowance(_CORRECTING)
        with Progress(len(modules) or 1, "spectra", self.progress) as bar:
            for part in parts:
                seen = self.statistics(part) if self.has_statistics else {}
                for name in part:
                    layer, own = by_name[name], seen.get(name)
                    made = candidates_of(layer, own, rules=self.rules)
                    part_of = allowance.within(2 * _CORRECTING / len(modules))
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

    def responses(self) -> dict[tuple[str, bool], Response]:
        """How far the outputs respond to errors of each layer, on data or on random inputs."""
        open_ = [one for one in self.open if self.candidates.get(one.name)]
        if not open_:
            return {}
        found = responses(self.replay, open_, Allowance(_SENSING[self.data is not None]))
        return {(name, kind): deepcopy(one) for name, one in found.items() for kind in (False, True)}

    def weights(self, selection: Selection) -> dict[str, tuple[Replacement, Weights]]:
        """The new layers of a selection with their weights; those computed before are kept up to a limit."""
        by_name = {one.name: one for one in self.layers}
        made: dict[str, tuple[Replacement, Weights]] = {}
        missing = [one for one in selection.candidates if key_of(one) not in self.computed]
        for part, seen in self.by_part(replace(selection, candidates=tuple(missing))):
            for one in part:
                found = weights_of(by_name[one.name], one, seen.get(one.name))
                made[one.name] = found
                size = sum(w.numel() * w.element_size() for w, _ in found[1])
                if self.computed_bytes + size <= _KEPT:
                    self.computed[key_of(one)] = found
                    self.computed_bytes += size
        for one in selection.candidates:
            if one.name not in made:
                made[one.name] = self.computed[key_of(one)]
        return {one.name: made[one.name] for one in selection.candidates}

    def by_part(self, selection: Selection) -> Iterator[tuple[list[Candidate], Mapping[str, Statistics]]]:
        """The candidates of a selection in groups, with the statistics of their layers."""
        chosen = {one.name: one for one in selection.candidates}
        if not self.has_statistics:
            yield list(chosen.values()), {}
            return
        modules = {one.name: one.module for one in self.layers if one.name in chosen}
        for part in in_parts(modules, self.ceiling):
            yield [chosen[name] for name in part], self.statistics(part)

    def prepare(self) -> None:
        """Compute the old model's outputs, once; what sensitivities needed is dropped."""
        self._replay = None
        if self.data is not None:
            self.judge(self.data)

    def judge(self, data: Data) -> Judge:
        """The judge of new models by the held-out part of the data, made once."""
        if data.held not in self.judges:
            self.judges[data.held] = Judge(self.model, data.held_out, self.probed(data.blended, 2.0))
        return self.judges[data.held]

    def carry_out(
        self,
        selection: Selection,
        evaluate: Callable[[nn.Module], float] | None,
        refit: bool,
        data: Data | None = None,
    ) -> Carried:
        """A selection carried out on a copy of the model, refitted and compared.

        Args:
            data: the data with another part held out; by default as it is.
        """
        data = data or self.data
        work = self.made(selection)
        raw: Verdict | None = None
        after: Verdict | None = None
        fits: dict[str, Refit] = {}
        if data is not None:
            raw = after = self.compared(work, data)
            if refit and selection.candidates:
                was = {name: value.clone() for name, value in work.state_dict().items()}
                with self.timed("refit"):
                    fits = refitted(
                        self.model,
                        work,
                        self.layers,
                        list(data.fitted),
                        self.progress,
                        score=self.judge(data).score_of(work) if data.apart else None,
                    )
                after = self.shift(work, data)
                if self.judge(data).further(after, raw) > _WORSE:
                    work.load_state_dict(was)
                    fits, after = {}, raw
        metric = None if evaluate is None else float(evaluate(self.folded.undone(copied(work))))
        score = -metric if metric is not None else 0.0 if after is None else after.score
        before, now = (None if one is None else one.moved for one in (raw, after))
        trial = Trial(selection.label, len(selection.candidates), before, now, metric, score)
        return Carried(selection, work, trial, fits)

    def made(self, selection: Selection) -> nn.Module:
        """A copy of the model with the new layers of a selection, their weights in closed form."""
        work = copied(self.model)
        with self.timed("weights"):
            exchanged(work, self.weights(selection), self.hooks)
        return work

    def compared(self, work: nn.Module, data: Data) -> Verdict:
        """How far a new model's outputs have moved."""
        with self.timed("check"):
            return self.judge(data).verdict(work)

    def shift(self, work: nn.Module, data: Data) -> Verdict:
        """Shift the norms' biases to the old means, where outputs then move less; the change in the end."""
        before, kept = self.compared(work, data), biases_of(work)
        with self.timed("refit"):
            done = shifted(self.model, work, data.fitted)
        if not done:
            return before
        after = self.compared(work, data)
        if after.score < before.score:
            return after
        with torch.no_grad():
            for norm, bias in kept.items():
                cast(Tensor, norm.bias).copy_(bias)
        return before
