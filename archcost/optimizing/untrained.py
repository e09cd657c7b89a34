"""Whether weights look untrained."""

from __future__ import annotations

from math import sqrt

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

__all__ = ["untrained"]


def untrained(model: nn.Module) -> str | None:
    """Why the weights seem to be those of an initialisation; None where they do not.

    Batch normalisations that have seen nothing, or else convolutions and linear layers all of which lie
    uniformly within PyTorch's own bound.
    """
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm) and one.running_mean is not None]
    if norms:
        fresh = all(not bool(one.running_mean.any()) for one in norms if one.running_mean is not None)
        return "every batch normalisation has a running mean of 0" if fresh else None
    layers = [one for one in model.modules() if isinstance(one, (_ConvNd, nn.Linear))]
    return (
        "all weights are uniform, as PyTorch initialises them"
        if layers and all(map(_uniform, layers))
        else None
    )


def _uniform(layer: nn.Module) -> bool:
    weight = layer.weight.detach().double()  # type: ignore[operator]
    assert isinstance(weight, torch.Tensor)
    bound = 1 / sqrt(weight[0].numel())
    if weight.numel() < 64 or float(weight.abs().max()) > bound * 1.0001:
        return weight.numel() < 64
    spread = float(weight.square().mean()) / (bound * bound / 3)
    return abs(spread - 1) < 6 / sqrt(weight.numel())
