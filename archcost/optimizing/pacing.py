"""Candidates' times corrected by those that chosen ones take inside of the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from torch import nn

from archcost.errors import RewriteError
from archcost.optimizing.candidates import Candidate, family_of
from archcost.optimizing.carrying import exchanged, weights_of
from archcost.optimizing.planning import Choosing, Planned, Selection
from archcost.optimizing.stages import Task
from archcost.optimizing.timing import Inside, inside
from archcost.surgery.copying import copied

__all__ = ["built", "kept_in_time", "paced"]

_ROUNDS = 3
_CLOSE = 0.03
"""How far apart what is promised and what is measured may be."""


def built(task: Task, selection: Selection) -> nn.Module:
    """The model that a selection would make; its values matter, as subnormal numbers are slow."""
    if task.kept or not task.has_statistics:
        weights = task.weights(selection)  # which are kept for when it is carried out
    else:
        by_name = {one.name: one for one in task.layers}
        weights = {one.name: weights_of(by_name[one.name], one, None) for one in selection.candidates}
    work = copied(task.model)
    exchanged(work, weights, task.hooks)
    return task.folded.undone(work).eval()


def paced(task: Task, planned: Planned, choose: Callable[[Planned], Choosing]) -> Planned:
    """The candidates with times as they are inside of the model: the choice is timed there, its candidates
    are corrected, and it is made again until what it promises is what it takes.

    Args:
        choose: the choice to be made for what is planned.
    """
    names = list(planned.seconds)
    for round_ in range(_ROUNDS):
        choosing = choose(planned)
        try:
            selection = choosing.within("sensitivity", choosing.sensitive)
        except RewriteError:
            if round_:
                raise
            selection = choosing.fastest()  # inside of the model it may be fast enough
        new = timed(task, selection, names, planned)
        promised = selection.spends["latency"]
        planned = _corrected(task, planned, selection, new)
        if abs(new.whole / promised - 1) < _CLOSE and selection.label != "fastest":
            break
    return planned


def timed(task: Task, selection: Selection, names: Sequence[str], planned: Planned) -> Inside:
    """The times of a selection, as if the old model took exactly what it was planned to."""
    made = inside({"old": task.folded.given, "new": built(task, selection)}, names, task.call)
    scale = planned.old_seconds / made["old"].whole
    new = made["new"]
    return Inside(scale * new.whole, {name: scale * value for name, value in new.layers.items()})


def _corrected(task: Task, planned: Planned, selection: Selection, new: Inside) -> Planned:
    """The plan with the measured times of the chosen candidates; those alike are scaled with them."""
    by_name = {one.name: one for one in task.layers}
    factors: dict[object, list[float]] = defaultdict(list)
    for one in selection.candidates:
        layer = by_name[one.name]
        takes = sum(new.layers[name] for name in (one.name, *one.others))
        factors[layer.specs, layer.linear, family_of(one)].append(takes / (one.seconds or 1.0))
    chosen = {name for one in selection.candidates for name in (one.name, *one.others)}
    every = sum(new.layers[name] for name in chosen)
    usual = every / (sum(one.seconds or 0.0 for one in selection.candidates) or every or 1.0)

    def factor(one: Candidate) -> float:
        layer = by_name[one.name]
        own = factors.get((layer.specs, layer.linear, family_of(one)))
        return median(own) if own else usual

    candidates = {
        name: [replace(one, seconds=factor(one) * (one.seconds or 0.0)) for one in all_]
        for name, all_ in planned.candidates.items()
    }
    kept = sum(seconds for name, seconds in planned.seconds.items() if name not in chosen)
    rest = new.whole - sum(new.layers[name] for name in chosen) - kept
    outside = planned.old_seconds - sum(planned.seconds.values())
    totals = {**planned.totals, "latency": planned.old_seconds + rest - outside}
    return replace(planned, candidates=candidates, totals=totals)


def kept_in_time(task: Task, planned: Planned, limit: float, given: Sequence[Selection]) -> list[Selection]:
    """The selections with the times that they take; those that take too long are left out, if not all do."""
    names = list(planned.seconds)
    made = [
        replace(one, spends={**one.spends, "latency": timed(task, one, names, planned).whole})
        for one in given
    ]
    return [one for one in made if one.spends["latency"] <= (1 + _CLOSE) * limit] or made[:1]
