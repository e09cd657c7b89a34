"""Transposed: a transposed convolution and the batch normalisations behind it, as a single convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from archcost.errors import Refusal
from archcost.merging.affine import Affine, WeightAndBias, affine
from archcost.spec import ConvSpec

__all__ = ["Transposed", "begun"]


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution like `Affine`; only factors and shifts can be merged into it."""

    given: ConvSpec
    """The convolution, at any input size."""
    weight: torch.Tensor | None = None
    """Weight in float64, (in_channels, out_channels / groups, *kernel_size); None: shapes only."""
    bias: torch.Tensor | None = None

    def spec(self, input_size: Sequence[int], batch: int = 1) -> ConvSpec:
        """The convolution for an input of some size."""
        return replace(self.given, input_size=tuple(input_size), batch=batch)

    def weights(self) -> WeightAndBias:
        """Weight and bias of the convolution, in float64."""
        assert self.weight is not None
        return self.weight, self.bias

    def convolved(self, spec: ConvSpec, weights: WeightAndBias | None = None) -> Refusal:
        """The refusal of another convolution behind this."""
        return Refusal("follows a transposed convolution, which cannot be merged with others")

    def scaled(self, scale: torch.Tensor | None, shift: torch.Tensor | None) -> Transposed:
        """This times a factor and plus a shift for each output channel."""
        made = replace(self, given=replace(self.given, bias=True))
        if self.weight is None or scale is None or shift is None:
            return made
        groups, ones = self.given.groups, (1,) * (self.weight.dim() - 2)
        parts = self.weight.reshape(groups, -1, *self.weight.shape[1:])
        weight = (parts * scale.reshape(groups, 1, -1, *ones)).reshape(self.weight.shape)
        return replace(made, weight=weight, bias=shift if self.bias is None else self.bias * scale + shift)


def begun(spec: ConvSpec, weights: WeightAndBias | None = None) -> Affine | Transposed:
    """A convolution, transposed or not, with its weight and bias where they are given."""
    if not spec.transposed:
        return affine(spec, weights)
    weight, bias = (None, None) if weights is None else weights
    wide = [None if t is None else t.detach().double() for t in (weight, bias)]
    return Transposed(spec, *wide)
