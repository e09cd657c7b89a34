"""Distillation behind the refit of the chosen selection, kept where held-out outputs agree better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from archcost.optimizing.data import Data, length
from archcost.optimizing.distilling import EPOCHS, LR, Distillation
from archcost.optimizing.stages import Carried, Task
from archcost.surgery.copying import copied

__all__ = ["distilled"]

_WORK = 2e11
"""MACs of a distillation that nobody has asked for: some 20 seconds of a core."""
_LEAST = 5
"""Epochs, at least."""
_CLOSE = 0.01
"""The divergence below which it is left out: it gained nothing there on inputs that were not seen."""
_LRS = (LR, LR / 10)
"""Learning rates, the next where one does not help: the first moves a model that is close too far away."""


def distilled(
    task: Task, best: Carried, evaluate: Callable[[nn.Module], float] | None, always: bool
) -> Carried | None:
    """The chosen selection after a distillation without labels; None where there is none, or it did not help.

    Trained on the inputs that are not held out first, which says for how many epochs it helps, and then on
    all of them for as many.

    Args:
        always: however long it takes; else only where it is short and there is something to gain.
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
    with task.timed("distillation"):
        for lr in _LRS:
            work, interrupted = copied(best.model), False
            loop = Distillation(work, task.model, epochs, lr)
            try:
                loop.run(data.fitted, data.held_out, task.outputs(data), progress=task.progress)
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
        if data.apart and 4 * loop.best_epoch >= 3 * epochs:  # steps that are still large need a check
            whole = copied(best.model)
            again = Distillation(whole, task.model, epochs, lr)
            again.run(data.pieces, until=loop.best_epoch, progress=task.progress)
            work = whole
    task.notes.append(
        f"distilled without labels for {loop.best_epoch} epochs: the score of held-out outputs went from "
        f"{trial.score:.2g} to {score:.2g}; then, where the last epochs were the best, again on all inputs"
    )
    label = f"{trial.label}, distilled"
    return replace(
        best, model=work, trial=replace(trial, label=label, moved=after, metric=metric, score=score)
    )


def _work(task: Task, best: Carried, data: Data) -> float:
    """MACs of an epoch: the new model forward and backward, twice, as all inputs follow those fitted to."""
    each = best.selection.spends["macs"] / max(1, length(task.call))
    return 2 * 3 * each * sum(map(length, data.fitted))
