"""All layers of the new model fitted in order to the old model's outputs, those that stay included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from torch import nn

from archcost.errors import RewriteError
from archcost.optimizing.ends import as_wide
from archcost.optimizing.layers import Layer
from archcost.trace.call import Inputs
from archcost.weights.refit import Refit, Score, refit

__all__ = ["refitted"]


def refitted(
    old: nn.Module,
    new: nn.Module,
    layers: Sequence[Layer],
    pieces: Sequence[Inputs],
    progress: bool | None = None,
    *,
    score: Score | None = None,
    repeat: Mapping[str, Refit] | None = None,
) -> dict[str, Refit]:
    """The refits of the layers, by name.

    Layers before the first exchanged one have nothing to correct and are left alone; so are those whose
    weights are read elsewhere.

    Args:
        score: of ``new``, smaller is better. It decides from the last convolution on: a linear layer has few
            rows to be fitted to, and a smaller squared error of what is decided by is no better a decision.
        repeat: refits to other pieces, as for `archcost.weights.refit.refit`.
    """
    changed = [at for at, one in enumerate(layers) if _differs(old, new, one.name)]
    if not changed:
        return {}
    last = max((at for at, one in enumerate(layers) if not one.linear), default=0)
    tail = {one.name for one in layers[last:]}
    wanted = [
        one.name
        for one in layers[changed[0] :]
        if one.refusal in (None, "it is excluded") and as_wide(old, new, one.name)
    ]
    scores = {} if score is None else dict.fromkeys(tail, score)
    try:
        return refit(old, new, wanted, list(pieces), scores=scores, repeat=repeat, progress=progress)
    except RewriteError:
        made: dict[str, Refit] = {}
        for name in wanted:
            with suppress(RewriteError):
                made |= refit(old, new, [name], list(pieces), scores=scores, repeat=repeat, progress=False)
        return made


def _differs(old: nn.Module, new: nn.Module, name: str) -> bool:
    was, now = old.get_submodule(name), new.get_submodule(name)
    return type(now) is not type(was) or [p.shape for p in now.parameters()] != [
        p.shape for p in was.parameters()
    ]
