"""What `archcost.optimize` gives back: the plan, the comparison, what was reached and what was traded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isnan, nan
from typing import Any, cast

from torch import nn

from archcost.analysis.analysis import analyze
from archcost.latency.timing.deadline import TooLittleTime
from archcost.latency.timing.thresholds import UNRELIABLE
from archcost.merging.chain import Conv
from archcost.optimizing.candidates import Candidate, replacement_of
from archcost.optimizing.layers import Layer
from archcost.optimizing.limits import Limits, totals_of
from archcost.optimizing.optimized import Optimized, Row
from archcost.optimizing.stages import Carried, Task
from archcost.rewriting.plan.plan import Plan
from archcost.rewriting.plan.recording import proposal_for
from archcost.rewriting.proposal import Proposal
from archcost.rewriting.racing import raced
from archcost.rewriting.reports.wording import options_text
from archcost.weights.refit import Refit

__all__ = ["outcome", "plan_of"]

_SLOWER = 1.1
"""Time over MACs, as shares of the old, from which the report says why."""


def outcome(
    task: Task,
    best: Carried,
    all_: Sequence[Carried],
    limits: Limits,
    accelerate: bool,
    evaluate: Callable[[nn.Module], float] | None,
) -> Optimized:
    """The result of the best selection; ``all_`` are those carried out."""
    chosen = {part.name: part for one in best.selection.candidates for part in _parts(task, one)}
    plan = plan_of(task, best)
    model = task.folded.undone(best.model)
    after = replace(analyze(model, task.call, progress=False), name=task.given.name)
    was, now = totals_of(task.given), totals_of(after)
    reached = {name: now[name] / was[name] for name in was if was[name]}
    if "latency" in limits.most:
        with task.timed("times"):
            reached["latency"] = _ratio(task, best, model, limits)
        task.notes += _why_slower(task, best, reached, limits)
    merges = task.merged.proposal_of(task.layers)
    rows = tuple(_row(one, merges.get(n := one.name), chosen.get(n), best.fits.get(n)) for one in task.layers)
    if task.data is not None and not task.data.apart:
        task.notes.append("too few batches to hold any out: the outputs are compared on those fitted to")
    if task.merged.plan is not None:
        task.notes.append(task.merged.note)
    if task.folded.norms:
        count = len(task.folded.norms)
        narrower = any(one.others for one in best.selection.candidates)
        task.notes.append(
            f"planned and fitted with {count} batch normalisation{'s' * (count > 1)} folded into the "
            f"convolutions before; the new model has them where they were, "
            + "but for convolutions with fewer outputs, where they are part of these, " * narrower
            + "and the given one is as it was"
        )
    acceleration = None
    if accelerate:
        from archcost.engine.accelerate import accelerate as make

        with task.timed("accelerate"):
            model = make(model, task.call, progress=task.progress)
        acceleration = model.acceleration
    return Optimized(
        model=model,
        plan=plan,
        before=task.given,
        after=after,
        asked={name: limits.share(name) for name in limits.most},
        reached=reached,
        moved=best.trial.moved,
        trials=tuple(one.trial for one in all_),
        rows=rows,
        inputs=task.call,
        acceleration=cast(Any, acceleration),
        metric=None if evaluate is None else (float(evaluate(task.given.model)), best.trial.metric or 0.0),
        seconds=task.seconds,
        notes=tuple(task.notes),
    )


def plan_of(task: Task, made: Carried) -> Plan:
    """The plan of what was carried out."""
    old = task.folded.old
    proposals = [
        proposal_for(
            task.analysis,
            old[one.name].subject if not one.others else old[one.others[0]].subject,
            [spec for name in (*one.others, one.name) for spec in old[name].specs],
            replacement_of(old[one.name], one.rule, one.options),
            one,
        )
        for one in made.selection.candidates
    ]
    return Plan(proposals, task.merged.plan)


def _parts(task: Task, one: Candidate) -> list[Candidate]:
    """A candidate layer by layer; those that become narrower with the one it is for have no error known."""
    if not one.others:
        return [one]
    layer = next(layer for layer in task.layers if layer.name == one.name)
    convs = {
        name: chain[0].spec
        for name, chain in replacement_of(layer, one.rule, one.options).chains.items()
        if chain and isinstance(chain[0], Conv)
    }
    return [
        replace(
            one, name=name, macs=spec.macs, params=spec.params, error=one.error if name == one.name else nan
        )
        for name, spec in convs.items()
    ]


def _ratio(task: Task, best: Carried, model: nn.Module, limits: Limits) -> float:
    """The new model's time over the old one's, in turns; the note holds what was promised."""
    promised = best.selection.spends["latency"] / limits.given["latency"]
    try:
        found = raced(task.given.model, model, task.call, seconds=5.0)
    except TooLittleTime:
        task.notes.append("old and new model were not timed in turns: the machine was too busy")
        return promised
    reached = 1 / found.speedup
    doubt = f", {UNRELIABLE}" * found.disturbed
    off = abs(reached / promised - 1)
    task.notes.append(
        f"time: {promised:.3g} of the old promised, {reached:.3g} measured in turns "
        f"({found.old_ms:.3g} ms -> {found.new_ms:.3g} ms{doubt})" + f": {off:.0%} apart" * (off > 0.1)
    )
    return reached


def _why_slower(task: Task, best: Carried, reached: Mapping[str, float], limits: Limits) -> list[str]:
    """Why the time has fallen by less than the MACs, where it has."""
    chosen = best.selection.candidates
    if reached["latency"] <= _SLOWER * reached["macs"] or not chosen:
        return []
    macs = {one.name: one.macs for one in task.layers}
    names = {name for one in chosen for name in (one.name, *one.others)}
    old, new = sum(task.times[name] for name in names), sum(one.seconds or 0.0 for one in chosen)
    before, after = sum(macs[name] for name in names) / old, sum(one.macs for one in chosen) / new
    outside = 1 - sum(task.times.values()) / limits.given["latency"]
    return [
        f"the time has fallen by less than the MACs, to {reached['latency']:.3g} and {reached['macs']:.3g}: "
        f"{outside:.0%} of the old time were outside of convolutions and linear layers, and those exchanged "
        f"made {before / 1e9:.3g} GMAC/s and make {after / 1e9:.3g}"
    ]


def _row(layer: Layer, merge: Proposal | None, one: Candidate | None, fit: Refit | None) -> Row:
    shape = f"{layer.spec.in_channels} -> {layer.spec.out_channels}" if layer.linear else layer.spec.layer
    old, new = layer if merge is None else merge.before, one or layer
    return Row(
        name=layer.name,
        shape=shape,
        rule=", ".join(made.rule for made in (merge, one) if made is not None) or None,
        options="" if one is None else options_text(one.options),
        macs=new.macs,
        macs_ratio=new.macs / old.macs if old.macs else 1.0,
        params_ratio=new.params / old.params if old.params else 1.0,
        error=None if one is None or isnan(one.error) else max(one.error, 0.0) ** 0.5,
        refitted=None if fit is None else fit.after,
    )
