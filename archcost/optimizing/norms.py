"""Norms of the new model shifted so that their outputs have the old means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from archcost.trace.call import Inputs
from archcost.weights.features import running

__all__ = ["biases_of", "shifted"]

_SEQUENTIAL = 40
"""Norms up to which each is shifted after those before it; more are shifted in that many groups."""


def biases_of(model: nn.Module) -> dict[nn.Module, Tensor]:
    """The biases of all batch normalisations, copied."""
    norms = (one for one in model.modules() if isinstance(one, _BatchNorm) and one.bias is not None)
    return {one: one.bias.detach().clone() for one in norms}


def shifted(old: nn.Module, new: nn.Module, pieces: Sequence[Inputs]) -> bool:
    """Add to the bias of each batch normalisation what its channels' means lack, in order of execution.

    A convolution without bias in front of a norm cannot correct its mean itself. Norms without bias stay.

    Returns:
        Whether any was.
    """
    theirs = {name: one for name, one in old.named_modules() if isinstance(one, _BatchNorm)}
    ours = {
        name: one
        for name, one in new.named_modules()
        if isinstance(one, _BatchNorm) and name in theirs and one.bias is not None
    }
    if not ours:
        return False
    wanted = _means(old, {name: theirs[name] for name in ours}, pieces)
    order = list(wanted)
    step = -(-len(order) // _SEQUENTIAL)
    for at in range(0, len(order), step):
        part = order[at : at + step]
        found = _means(new, {name: ours[name] for name in part}, pieces)
        with torch.no_grad():
            for name in part:
                if name in found:
                    bias = ours[name].bias
                    bias.add_((wanted[name] - found[name]).to(bias))
    return True


def _means(model: nn.Module, norms: dict[str, nn.Module], pieces: Sequence[Inputs]) -> dict[str, Tensor]:
    """The mean of each channel of the norms' outputs, in order of execution."""
    sums: dict[str, tuple[Tensor, int]] = {}

    def tap(name: str):  # type: ignore[no-untyped-def]
        def add(_: Tensor, y: Tensor) -> None:
            rows = y.detach().double().transpose(0, 1).flatten(1)
            total, count = sums.get(name, (torch.zeros(len(rows), dtype=torch.float64, device=y.device), 0))
            sums[name] = total + rows.sum(1), count + rows.shape[1]

        return add

    with running(model, {norm: tap(name) for name, norm in norms.items()}) as run:
        calls: int | None = None
        for piece in pieces:
            calls = run(piece, calls)
    return {name: total / count for name, (total, count) in sums.items()}
