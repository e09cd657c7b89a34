"""All layers of the new model fitted in order to the old model's outputs, those that stay included."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from archcost.errors import RewriteError
from archcost.optimizing.layers import Layer
from archcost.trace.call import Inputs
from archcost.weights.refit import refit

__all__ = ["refitted"]


def refitted(
    old: nn.Module,
    new: nn.Module,
    layers: Sequence[Layer],
    pieces: Sequence[Inputs],
    progress: bool | None = None,
) -> dict[str, tuple[float, float]]:
    """Errors of the layers' outputs before and after the refit, by name.

    Layers before the first exchanged one have nothing to correct and are left alone; so are those whose
    weights are read elsewhere.
    """
    names = [one.name for one in layers]
    changed = [
        at
        for at, name in enumerate(names)
        if old.get_submodule(name) is not None and _differs(old, new, name)
    ]
    if not changed:
        return {}
    wanted = [
        one.name for one in layers[changed[0] :] if one.refusal is None or one.refusal == "it is excluded"
    ]
    try:
        found = refit(old, new, wanted, list(pieces), progress=progress)
        return {name: (one.before, one.after) for name, one in found.items()}
    except RewriteError:
        made: dict[str, tuple[float, float]] = {}
        for name in wanted:
            try:
                one = refit(old, new, [name], list(pieces), progress=False)[name]
            except RewriteError:
                continue
            made[name] = (one.before, one.after)
        return made


def _differs(old: nn.Module, new: nn.Module, name: str) -> bool:
    return type(new.get_submodule(name)) is not type(old.get_submodule(name))
