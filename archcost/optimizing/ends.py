"""The layer that ends what stands in a place of a model: a chain ends in its last one."""

from __future__ import annotations

from torch import nn

from archcost.nn import adapters
from archcost.weights.features import like_of

__all__ = ["as_wide", "last_of"]


def last_of(place: nn.Module) -> nn.Module | None:
    """The convolution or linear layer that a place ends in; None where it ends in something else."""
    while isinstance(place, nn.Sequential) and len(place):
        place = place[-1]
    return place if isinstance(place, nn.Linear) or adapters.known(place) else None


def as_wide(old: nn.Module, new: nn.Module, name: str) -> bool:
    """Whether a place of both models ends in a layer with as many outputs."""
    ends = [last_of(model.get_submodule(name)) for model in (old, new)]
    return len({like_of(one).out_channels for one in ends if one is not None}) == 1 and None not in ends
