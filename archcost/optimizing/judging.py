"""Which of several new models is closest to the old one, by inputs that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from torch import Tensor, nn

from archcost.optimizing.verify import Moved, each, moved, outputs_for
from archcost.trace.call import Inputs
from archcost.weights.activations import Activations

__all__ = ["Judge", "Verdict"]

Outputs = list[list[Tensor]]


@dataclass(frozen=True, eq=False)
class Verdict:
    """How far a model's outputs have moved."""

    moved: Moved
    """Over the held-out inputs."""
    score: float
    """The score that decides between models, the smaller the better: see `Judge.score`."""
    outputs: Outputs


class Judge:
    """The old model's outputs for the inputs that decide: held out ones, and blended ones."""

    def __init__(self, model: nn.Module, held_out: Sequence[Inputs], blended: Sequence[Inputs] = ()) -> None:
        self.pieces = (*held_out, *blended)
        self.old = outputs_for(model, self.pieces)
        self.held_out = len(held_out)

    def verdict(self, new: nn.Module) -> Verdict:
        """The change of a new model's outputs."""
        outputs = outputs_for(new, self.pieces)
        held = moved(outputs[: self.held_out], self.old[: self.held_out])
        return Verdict(held, self.score(outputs), outputs)

    def score(self, outputs: Outputs) -> float:
        """The geometric mean of the scores over held-out and over blended inputs, as these move further."""
        cut = self.held_out
        held = moved(outputs[:cut], self.old[:cut]).score
        if len(self.pieces) == cut:
            return held
        return float((held * moved(outputs[cut:], self.old[cut:]).score) ** 0.5)

    def further(self, one: Verdict, other: Verdict) -> float:
        """How much further one has moved than the other over held-out inputs, in standard errors of that."""
        change = self._each(one) - self._each(other)
        if not bool(change.isfinite().all()):
            return inf if one.score > other.score else 0.0
        error = float(change.std()) / len(change) ** 0.5
        return float(change.mean()) / error if error > 0 else 0.0

    def _each(self, one: Verdict) -> Tensor:
        return each(one.outputs[: self.held_out], self.old[: self.held_out])

    def score_of(self, new: nn.Module) -> Callable[[nn.Module], float]:
        """The score of a new model for a change of a layer, while the layers before it stay as they are."""
        kept = Activations(new, self.pieces)

        def score(layer: nn.Module) -> float:
            found: dict[int, list[Tensor]] = {}

            def run(index: int, piece: Inputs) -> None:
                (found[index],) = outputs_for(new, [piece])

            for index, piece in enumerate(self.pieces):
                kept.run(index, layer, partial(run, index, piece))
            return self.score(list(found.values()))

        return score
