"""Batch normalisations that, in eval mode, are a factor and a shift for each channel."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["inner_activation", "is_norm", "norm_problem"]

_NORMS = (
    *("torch.nn.modules.batchnorm.BatchNorm1d", "torch.nn.modules.batchnorm.BatchNorm2d"),
    *("torch.nn.modules.batchnorm.BatchNorm3d", "torch.nn.modules.batchnorm.SyncBatchNorm"),
    *("timm.layers.norm_act.BatchNormAct2d", "torchvision.ops.misc.FrozenBatchNorm2d"),
)
"""The known types, without subclasses."""


def is_norm(module: nn.Module) -> bool:
    """Whether a module is of a known type, not of a subclass."""
    return f"{type(module).__module__}.{type(module).__qualname__}" in _NORMS


def norm_problem(module: nn.Module) -> str | None:
    """Why a module cannot be folded into a convolution, in words that follow its name; None where it can."""
    if not is_norm(module):
        return f"is a {type(module).__name__}, which is not a known batch normalisation"
    if not isinstance(getattr(module, "running_mean", None), torch.Tensor):
        return "has no running statistics and depends on the batch"
    if module.training and type(module).__name__ != "FrozenBatchNorm2d":
        return "is in training mode and depends on the batch: call model.eval() first"
    drop = module._modules.get("drop")
    if drop is not None and type(drop) is not nn.Identity:
        return f"holds a {type(drop).__name__}"
    return None


def inner_activation(name: str, module: nn.Module) -> str | None:
    """Name of the activation function inside timm's batch normalisation; None where there is none."""
    act = getattr(module, "act", None)
    return None if type(act) in (type(None), nn.Identity) else f"{name}.act"
