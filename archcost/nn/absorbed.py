"""Absorbed: a placeholder for a batch normalisation that is folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from archcost.errors import RewriteError

__all__ = ["Absorbed", "Source"]

Source = tuple[Mapping[str, torch.Tensor | None], str]
"""A table of a module, its parameters or buffers, and a key in it."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Absorbed(nn.Module):
    """Returns its input; holds the original parameters and statistics under the same state_dict keys.

    The convolution calls `normalised` where it cannot fold them into its weights, as in training.
    """

    _version = 2  # of its state_dict, as torch.nn's batch normalisations have it

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        if type(norm) not in _NORMS or norm._buffers.get("running_mean") is None:
            raise RewriteError(
                f"{type(norm).__name__} cannot be absorbed: it is no plain BatchNorm1d, 2d or 3d "
                f"with running statistics"
            )
        for name in ("num_features", "eps", "momentum", "affine", "track_running_stats"):
            setattr(self, name, getattr(norm, name))
        for key, parameter in norm._parameters.items():
            self.register_parameter(key, parameter)
        for key, buffer in norm._buffers.items():
            self.register_buffer(key, buffer, persistent=key not in norm._non_persistent_buffers_set)
        self.training = norm.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def normalised(self, y: torch.Tensor) -> torch.Tensor:
        """The output of the batch normalisation, its statistics updated in training mode."""
        # It reads nothing that is not here too.
        forward: Callable[..., torch.Tensor] = nn.modules.batchnorm._BatchNorm.forward
        return forward(self, y)

    def sources(self) -> Iterator[Source]:
        """The tensors that the normalisation depends on, each as a module's table and the key in it."""
        for key in ("weight", "bias"):
            yield self._parameters, key
        for key in ("running_mean", "running_var"):
            yield self._buffers, key

    def extra_repr(self) -> str:
        return f"batch normalisation of {self.num_features}, done by the convolution before it"

    def _check_input_dim(self, y: torch.Tensor) -> None:
        """Nothing to check: the convolution before it has checked its input."""
