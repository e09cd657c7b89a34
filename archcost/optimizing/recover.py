"""recover: a changed model brought closer to the old one, without labels; kept only where it helps."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor, nn

from archcost.errors import InputError
from archcost.optimizing.data import data_of
from archcost.optimizing.distilling import EPOCHS, LR, WEIGHT_DECAY, Distillation, fitted_layers
from archcost.optimizing.optimized import moved_text
from archcost.optimizing.verify import Moved, moved, outputs_for
from archcost.report.columns import number, words
from archcost.report.document import Asked, Document, Table
from archcost.report.result import Result
from archcost.surgery.copying import copied
from archcost.trace.call import Inputs
from archcost.weights.refit import refit

__all__ = ["Recovered", "recover"]


@dataclass(frozen=True)
class Recovered(Result):
    """The result of `recover`: the better model of the two, and both changes on held-out inputs."""

    model: nn.Module
    method: str
    before: Moved
    after: Moved
    """Of the recovered model, whether or not it was kept."""
    kept: bool
    """Whether ``model`` is the recovered one; else it is a copy of the one given."""
    steps: int

    def document(self, asked: Asked) -> Document:
        """The schema of ``archcost.recovered/1``: the fields by their names, without the model."""
        asked.without_depth("a recovery")
        rows = [("before", self.before), ("after", self.after)]
        table = Table("moved", _COLUMNS, lambda: rows)
        verdict = "kept" if self.kept else "not kept, as it does not help"
        return Document(
            schema="archcost.recovered/1",
            headings=[(type(self.model).__name__, f"recovered by {self.method}")],
            tables=[table],
            shown=[table],
            record=lambda: {
                "method": self.method,
                "before": asdict(self.before),
                "after": asdict(self.after),
                "kept": self.kept,
                "steps": self.steps,
            },
            lines=[f"{verdict}: {moved_text(self.before)} before, {moved_text(self.after)} after"],
        )


def _share(value: float) -> str:
    return f"{value:.3g}"


_COLUMNS = (
    words("when", "", "Before or after", lambda row: row[0]),
    number(
        "agreement", "Agreement", "Share of outputs that keep their class", _share, lambda r: r[1].agreement
    ),
    number("kl", "Divergence", "KL divergence, nats", _share, lambda r: r[1].kl),
    number("error", "Error", "||new - old|| / ||old|| of the outputs", _share, lambda r: r[1].error),
)


def recover(
    new: nn.Module,
    old: nn.Module,
    batches: Iterable[Inputs] | Tensor,
    method: Literal["least_squares", "distill"] = "least_squares",
    *,
    epochs: int = EPOCHS,
    lr: float = LR,
    weight_decay: float = WEIGHT_DECAY,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Recovered:
    """The changed model, fitted to the old one's outputs and features over unlabelled inputs.

    ``least_squares`` refits every layer in order in closed form. ``distill`` is gradient descent (G. Hinton,
    O. Vinyals and J. Dean, "Distilling the Knowledge in a Neural Network", 2015): AdamW with a cosine
    schedule, on the divergence of classes, or the squared error, and the squared errors of the layers that
    both models have; normalisations keep their statistics. It stops after 12 epochs that are no better on
    the held-out quarter than those before, and the best one is taken. On a GPU passes are in bfloat16.

    Args:
        new: a rewritten or otherwise changed model; it ends unchanged.
        old: the model to follow, with the same outputs.
        batches: unlabelled inputs, as for `archcost.optimize`.
        epochs, lr, weight_decay, seed: of the distillation; the same seed gives the same result on a machine.
        checkpoint: a file written after each epoch; where it exists, the distillation goes on from it.
        progress: draw a progress bar on stderr; by default on a terminal.

    Raises:
        InputError: an argument is not valid, there are no batches, or the checkpoint is of another model.
    """
    if method not in ("least_squares", "distill"):
        raise InputError(f"recover: method is {method!r}; it takes 'least_squares' or 'distill'")
    data = data_of(batches)
    wanted = outputs_for(old, data.held_out)
    work = copied(new)
    before = moved(outputs_for(work, data.held_out), wanted)
    steps = 0
    if method == "least_squares":
        names = fitted_layers(old, work)
        found = refit(old, work, names, list(data.fitted), progress=progress)
        steps = len(found)
    else:
        loop = Distillation(work, old, epochs, lr, weight_decay, seed)
        steps = loop.run(
            data.fitted,
            data.held_out,
            lambda made: moved(made, wanted).score,
            checkpoint=checkpoint,
            progress=progress,
        )
    after = moved(outputs_for(work, data.held_out), wanted)
    kept = after.score < before.score
    return Recovered(work if kept else copied(new), method, before, after, kept, steps)
