"""Outputs of layers kept, so that a pass with a change behind them need not compute them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from archcost.optimizing.verify import outputs_for
from archcost.trace.call import Inputs
from archcost.trace.inputs import map_tensors, tensors_in
from archcost.weights.activations import giving, layers_in

__all__ = ["Replay"]

_MOST = 2**29
"""Most bytes of outputs; where they are more, nothing is kept."""


class Replay:
    """A model's outputs for some inputs, and what its layers gave for them."""

    def __init__(self, model: nn.Module, pieces: Sequence[Inputs]) -> None:
        self.model, self.pieces = model, pieces
        self._kept: dict[nn.Module, list[Any]] = {}
        """By module, in order of their first calls."""
        self._bytes = 0
        handles = [one.register_forward_hook(self._keep) for one in layers_in(model)]
        try:
            self.old = outputs_for(model, pieces)
        finally:
            for handle in handles:
                handle.remove()
        if self._bytes > _MOST:
            self._kept.clear()

    def _keep(self, module: nn.Module, _: object, y: Any) -> None:
        self._bytes += sum(one.numel() * one.element_size() for one in tensors_in(y))
        if self._bytes > _MOST:
            self._kept.clear()
        else:
            self._kept.setdefault(module, []).append(map_tensors(y, _copy))

    def outputs(self, changed: nn.Module) -> list[list[Tensor]]:
        """The outputs for the same inputs, where only ``changed`` may have changed since.

        Layers that run before it give what they gave, but for those of several calls.
        """
        known = list(self._kept)
        before = known[: known.index(changed)] if changed in self._kept else []
        once = [one for one in before if len(self._kept[one]) == len(self.pieces)]
        with giving({one: _given(self._kept[one]) for one in once}):
            return outputs_for(self.model, self.pieces)


def _copy(y: Tensor) -> Tensor:
    return y.detach().clone()  # the model may write into it


def _given(values: Sequence[Any]) -> Callable[..., Any]:
    left = iter(values)
    return lambda *args, **kwargs: map_tensors(next(left), _copy)
