"""The chosen selection finished: fitted to all inputs as held-out ones have decided, and distilled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from archcost.optimizing.data import Data, length
from archcost.optimizing.distilling import EPOCHS, LR, Distillation
from archcost.optimizing.refitting import refitted
from archcost.optimizing.stages import Carried, Task
from archcost.surgery.copying import copied

__all__ = ["finished"]

_WORK = 1e11
"""MACs of a distillation that nobody has asked for: some 20 seconds of a core."""
_LEAST = 5
"""Epochs, at least."""
_CLOSE = 0.01
"""The divergence below which it is left out: it gained nothing there on inputs that were not seen."""
_MORE = 5, 0.3
"""Epochs on all inputs, and their learning rate over the one before: on two draws and budgets they came out
as well as to begin anew with all inputs, in a quarter of the time."""
_LRS = (LR, LR / 10)
"""Learning rates, the next where one does not help: the first moves a model that is close too far away."""


def finished(
    task: Task,
    best: Carried,
    evaluate: Callable[[nn.Module], float] | None,
    refit: bool,
    distill: bool | None,
) -> Carried:
    """The chosen selection, fitted to all inputs and distilled where that helps.

    What was decided by held-out inputs stays: each layer's change with its ridge, the epochs.

    Args:
        distill: True: however long it takes; None: only where it is short and there is something to gain.
    """
    further = None if distill is False else _distilled(task, best, evaluate, bool(distill))
    if further is not None:
        return further
    whole = _on_all(task, best) if refit else None
    if whole is None:
        return best
    if evaluate is None:
        return replace(best, model=whole)
    metric = float(evaluate(task.folded.undone(copied(whole))))
    assert best.trial.metric is not None
    if metric < best.trial.metric:
        return best
    return replace(best, model=whole, trial=replace(best.trial, metric=metric, score=-metric))


def _on_all(task: Task, best: Carried) -> nn.Module | None:
    """The selection with the changes of its refit fitted to all inputs; None where there are no others, no
    time is left for it, or the outputs move further."""
    data = task.data
    if data is None or not data.apart or not best.fits or task.refitting.passed:
        return None
    work = task.made(best.selection)
    try:
        with task.timed("refit"):
            refitted(task.model, work, task.layers, data.pieces, task.progress, repeat=best.fits)
        after = task.shift(work, data)
    except KeyboardInterrupt:
        return None
    assert best.trial.moved is not None
    if not after.moved.score <= best.trial.moved.score:
        return None
    task.notes.append("compared on held-out inputs, and then fitted to all of them by the same choices")
    return work


def _distilled(
    task: Task, best: Carried, evaluate: Callable[[nn.Module], float] | None, always: bool
) -> Carried | None:
    """The selection after a distillation without labels; None where there is none, or it did not help.

    Trained on the inputs that are not held out, which says for how many epochs it helps, and then for a few
    more with small steps on all of them.
    """
    data, trial = task.data, best.trial
    if data is None or trial.moved is None or not best.selection.candidates:
        return None
    epochs = EPOCHS
    if not always:
        epochs = min(EPOCHS, int(_WORK / _work(task, best, data)))
        if trial.moved.score < _CLOSE or not data.apart:
            return None
        if epochs < _LEAST:
            task.notes.append("too large to be distilled in seconds: distill=True does it all the same")
            return None
    judge = task.judge(data)
    with task.timed("distillation"):
        for lr in _LRS:
            work, interrupted = copied(best.model), False
            loop = Distillation(work, task.model, epochs, lr)
            try:
                loop.run(data.fitted, judge.pieces, judge.score, progress=task.progress)
            except KeyboardInterrupt:
                interrupted = True
                task.notes.append("the distillation was interrupted")
            after = task.compared(work, data)
            metric = None if evaluate is None else float(evaluate(task.folded.undone(copied(work))))
            score = after.score if metric is None else -metric
            if interrupted or score < trial.score:
                break
        if not score < trial.score:
            task.notes.append("a distillation of the result did not help and was not kept")
            return None
        said = (
            f"distilled without labels for {loop.best_epoch} epochs: the score of held-out outputs went from "
            f"{trial.score:.2g} to {score:.2g}"
        )
        # Steps that are still large need a check.
        if evaluate is None and not interrupted and data.apart and 4 * loop.best_epoch >= 3 * epochs:
            epochs, part = _MORE
            Distillation(work, task.model, epochs, part * lr).run(data.pieces, progress=task.progress)
            said += f"; then for {epochs} on all inputs"
    task.notes.append(said)
    label = f"{trial.label}, distilled"
    return replace(
        best, model=work, trial=replace(trial, label=label, moved=after.moved, metric=metric, score=score)
    )


def _work(task: Task, best: Carried, data: Data) -> float:
    """MACs of an epoch: the new model forward and backward, the old one forward."""
    each = 3 * best.selection.spends["macs"] + task.analysis.total.macs
    return each / max(1, length(task.call)) * sum(map(length, data.fitted))
