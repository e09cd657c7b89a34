"""Folding: a batch normalisation done by the weights of the convolution before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["NormState", "folded"]


class NormState(NamedTuple):
    """The numbers of a batch normalisation."""

    mean: torch.Tensor
    """``running_mean``."""
    variance: torch.Tensor
    """``running_var``."""
    eps: float
    gamma: torch.Tensor | None
    """``weight``."""
    beta: torch.Tensor | None
    """``bias``."""

    @classmethod
    def of(cls, norm: nn.Module) -> NormState:
        """The numbers of a module that has running statistics."""
        return cls(
            *(getattr(norm, name) for name in ("running_mean", "running_var", "eps", "weight", "bias"))
        )


def folded(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: nn.Module,
    *,
    transposed: bool = False,
    groups: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution with a batch normalisation folded into it; neither is changed.

    With s = gamma / sqrt(running_var + eps), one number an output channel::

        weight' = weight * s
        bias'   = (bias - running_mean) * s + beta

    in float64, rounded once to the dtype of the weight. ``norm`` (see `NormState`) is taken to be in eval
    mode.
    """
    import torch

    with torch.no_grad():
        mean, variance, eps, gamma, beta = NormState.of(norm)
        scale = (variance.double() + eps).rsqrt()
        if gamma is not None:
            scale = scale * gamma.double()
        shift = -mean.double() if bias is None else bias.double() - mean.double()
        shift = shift * scale
        if beta is not None:
            shift = shift + beta.double()
        exact = weight.double()
        if transposed:  # (in, out / groups, ...): the output channels of each group lie in the second axis
            shape = (groups, -1, *weight.shape[1:])
            exact = exact.reshape(shape) * scale.reshape(groups, 1, -1, *(1,) * (weight.dim() - 2))
            exact = exact.reshape(weight.shape)
        else:
            exact = exact * scale.reshape(-1, *(1,) * (weight.dim() - 1))
        return exact.to(weight.dtype), shift.to(weight.dtype)
