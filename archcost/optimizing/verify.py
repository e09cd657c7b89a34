"""How far the outputs of a new model have moved from those of the old one, for outputs of any structure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from archcost.trace.call import Inputs
from archcost.trace.inputs import tensors_in
from archcost.weights.features import running

__all__ = ["ENOUGH", "Moved", "class_axis", "each", "moved", "outputs_for", "sums_to_one"]

_LEAST = 1e-12
ENOUGH = 1e-3
"""The divergence, or squared error, below which outputs count as kept."""


_SCALE = ((0.002, "99.7 % or more"), (0.005, "99 % or more"), (0.02, "97 to 99 %"), (0.06, "92 to 97 %"))
"""Divergences of held-out outputs up to which so many of 1,000 to 5,000 other inputs kept their class, in
`benchmarks/optimize.py`: three networks of digits and faces, two of Fashion-MNIST."""


@dataclass(frozen=True)
class Moved:
    """The change of a model's outputs over some inputs."""

    error: float
    """||new - old|| / ||old||, the root of the mean square over all output tensors."""
    agreement: float | None
    """Share of positions whose largest class is the same; None where no output has classes."""
    kl: float | None
    """Mean Kullback-Leibler divergence of the new classes' distribution from the old one, in nats."""
    positions: int
    """Number of positions with classes."""

    @property
    def score(self) -> float:
        """What is minimised: the divergence where there are classes, else the squared error."""
        return self.error**2 if self.kl is None else self.kl

    @property
    def meaning(self) -> str | None:
        """The share of other inputs that kept their class where trained networks diverged as much, in words;
        None where there are no classes."""
        if self.kl is None:
            return None
        return next((said for most, said in _SCALE if self.kl <= most), "less than 92 %")


def outputs_for(model: nn.Module, pieces: Iterable[Inputs]) -> list[list[Tensor]]:
    """The floating-point output tensors for each piece, in eval mode without gradients."""
    found = []
    with running(model, {}, "new") as run:
        for piece in pieces:
            made: list[Tensor] = []
            handle = model.register_forward_hook(lambda m, a, y, made=made: made.extend(_floats(y)))
            try:
                run(piece)
            finally:
                handle.remove()
            found.append(made)
    return found


def _floats(y: object) -> list[Tensor]:
    return [one.detach().clone() for one in tensors_in(y) if one.is_floating_point() and one.numel()]


def moved(
    new: Sequence[Sequence[Tensor]],
    old: Sequence[Sequence[Tensor]],
    probabilities: Sequence[bool] | None = None,
) -> Moved:
    """The change between the outputs of two models for the same pieces; infinite where shapes differ.

    Args:
        probabilities: which of the outputs are; by default those that sum to one. Beside such, others have
            no classes, as boxes have none.
    """
    shapes = (
        [[tuple(t.shape) for t in piece] for piece in new],
        [[tuple(t.shape) for t in piece] for piece in old],
    )
    if shapes[0] != shapes[1]:
        return Moved(inf, None, None, 0)
    errors, same, divergence, places = [], 0.0, 0.0, 0
    sure = _probabilities(old) if probabilities is None else probabilities
    tensors = zip(*(zip(a, b, strict=True) for a, b in zip(new, old, strict=True)), strict=False)
    for outputs, given in zip(tensors, sure, strict=True):
        lost = size = 0.0
        for a, b in outputs:
            a, b = a.double(), b.double()
            lost += float((a - b).square().sum())
            size += float(b.square().sum())
            axis = class_axis(b)
            if axis is not None and (given or not any(sure)):
                p, q = (one.movedim(axis, -1).flatten(0, -2) for one in (a, b))
                same += float((p.argmax(-1) == q.argmax(-1)).sum())
                divergence += _divergence(p, q, given)
                places += len(p)
        errors.append(lost / size if size else float(lost > 0))
    error = (sum(errors) / len(errors)) ** 0.5 if errors else 0.0
    if not error < inf:
        return Moved(inf, None, None, 0)
    return Moved(error, same / places if places else None, divergence / places if places else None, places)


def class_axis(y: Tensor) -> int | None:
    """The axis of classes: the last of rows and sequences, the first behind the batch of maps."""
    if y.dim() in (2, 3):
        axis = y.dim() - 1
    elif y.dim() in (4, 5):
        axis = y.dim() - 1 if y.shape[-1] <= 4 < min(y.shape[1], y.shape[-2]) else 1
    else:
        return None
    return axis if y.shape[axis] > 1 else None


def each(new: Sequence[Sequence[Tensor]], old: Sequence[Sequence[Tensor]]) -> Tensor:
    """The score of each input alone; of each piece, where outputs are not one an input."""
    found, sure = [], _probabilities(old)
    for a, b in zip(new, old, strict=True):
        lengths = {len(t) if t.dim() else 0 for t in (*a, *b)}
        count = lengths.pop() if len(lengths) == 1 else 0
        if count:
            rows = [slice(at, at + 1) for at in range(count)]
            found += [moved([[t[one] for t in a]], [[t[one] for t in b]], sure).score for one in rows]
        else:
            found.append(moved([a], [b], sure).score)
    return torch.tensor(found, dtype=torch.float64)


def _probabilities(old: Sequence[Sequence[Tensor]]) -> list[bool]:
    """For each output, whether it holds probabilities for all pieces."""
    return [all(map(sums_to_one, outputs)) for outputs in zip(*old, strict=False)]


def sums_to_one(y: Tensor) -> bool:
    """Whether an output holds probabilities of classes."""
    axis = class_axis(y)
    return axis is not None and bool((y >= 0).all()) and bool(((y.sum(axis) - 1).abs() < 1e-3).all())


def _divergence(new: Tensor, old: Tensor, probabilities: bool) -> float:
    """Sum over rows of KL(old || new), of logits or of probabilities."""
    if probabilities:
        p, logs = old, new.clamp_min(_LEAST)
        logs = (logs / logs.sum(-1, keepdim=True)).log()
        before = p.clamp_min(_LEAST).log()
    else:
        before, logs = old.log_softmax(-1), new.log_softmax(-1)
        p = before.exp()
    return max(0.0, float((p * (before - logs)).sum()))
