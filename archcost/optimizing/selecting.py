"""The few selections that are carried out, and the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from archcost.optimizing.allowance import Allowance
from archcost.optimizing.planning import Selection
from archcost.optimizing.stages import Carried, Task
from archcost.optimizing.verify import ENOUGH, moved, outputs_for

__all__ = ["carried"]

_COMPARING = 20.0
"""Seconds after which no further selection is compared before a refit."""
_REFITTED = 4
"""The most selections that are refitted: of those carried out for 46 budgets of four networks, the best was
among the four that moved outputs least before, but for four budgets."""
_REFITTING = 40.0
"""Seconds after which no further one is refitted."""
_TIED = 3
"""The most selections that are refitted once more to be told apart."""


def carried(
    task: Task, selections: Sequence[Selection], evaluate: Callable[[nn.Module], float] | None, refit: bool
) -> tuple[Carried, list[Carried]]:
    """The best of the selections, and all that were carried out; Ctrl-C ends it with those so far."""
    done: list[Carried] = []
    task.prepare()
    chosen = selections[:1]
    try:
        if task.data is not None or evaluate is not None:
            chosen, refit = _promising(task, selections, refit)
        task.refitting = Allowance(_REFITTING)
        for selection in chosen:
            done.append(task.carry_out(selection, evaluate, refit))
            if refit and task.data is not None and task.refitting.passed:
                break
    except KeyboardInterrupt:
        task.notes.append(f"interrupted after {len(done)} of {len(selections)} selections")
        if not done:
            task.notes.append("no selection was refitted")
            done.append(task.carry_out(chosen[0], evaluate, False))
    done.sort(key=lambda one: one.rank)
    if evaluate is None and refit:
        _settle(task, done)
    return done[0], done


def _promising(task: Task, selections: Sequence[Selection], refit: bool) -> tuple[Sequence[Selection], bool]:
    """The selections whose outputs move least before a refit, the best first, and whether to refit them;
    all of them where there is no refit. Ctrl-C leaves the best so far, without a refit."""
    if task.data is None or not refit or len(selections) == 1:
        return selections, refit
    raw: dict[object, float] = {}
    part = (*task.probed(task.data.held_out, 0.5), *task.probed(task.data.blended, 0.5))
    allowance = Allowance(_COMPARING)
    with task.timed("check"):
        old = outputs_for(task.model, part)
        try:
            for one in selections:
                raw[one.key] = moved(outputs_for(task.made(one), part), old).score
                if allowance.passed:
                    break
        except KeyboardInterrupt:
            if not raw:
                raise
            task.notes.append(f"interrupted after {len(raw)} of {len(selections)} selections, before a refit")
            refit = False
    known = sorted((one for one in selections if one.key in raw), key=lambda one: raw[one.key])
    return known[: _REFITTED if refit else 1], refit


def _settle(task: Task, done: list[Carried]) -> None:
    """Put the best of the selections that held-out inputs do not tell apart first, in place.

    They are refitted with another quarter held out, and compared over both.
    """
    data, best = task.data, done[0]
    if data is None or not data.apart or best.trial.score < ENOUGH or task.refitting.passed:
        return
    judge = task.judge(data)
    first, *others = (task.compared(one.model, data) for one in done[:_TIED])
    near = (judge.further(other, first) < 1 for other in others)
    tied = [best, *(one for one, close in zip(done[1:], near, strict=False) if close)]
    if len(tied) < 2:
        return
    other = data.turned[0]
    try:
        again = [task.carry_out(one.selection, None, True, other).trial.score for one in tied]
    except KeyboardInterrupt:
        return
    scores = [one.trial.score + more for one, more in zip(tied, again, strict=True)]
    best = tied[scores.index(min(scores))]
    done.remove(best)
    done.insert(0, best)
    task.notes.append(
        f"{len(tied)} selections could not be told apart by held-out inputs: they were refitted with "
        f"others held out, and the best over both is kept"
    )
