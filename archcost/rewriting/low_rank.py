"""low_rank: a linear layer as two, which `archcost.optimize` chooses; no convolution is replaced by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch

from archcost.errors import Refusal, RewriteError
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Modules, Rewrite, RuleOptions, Weights
from archcost.rewriting.survey.survey import Subject
from archcost.weights.features import weight_of
from archcost.weights.lowrank import reduced
from archcost.weights.moments import Moments

__all__ = ["LowRank"]

_WHY = "it is a convolution, and low_rank replaces linear layers: bottleneck is its low rank"


class LowRank(Rewrite):
    """A linear layer as two of ``rank`` features between; without moments by the truncated SVD."""

    name = "low_rank"
    change = "linear -> linear, linear"
    break_even = "R < I O / (I + O): R features between, I and O in and out"

    def refusal(self, subject: Subject) -> Refusal:
        return Refusal(_WHY)

    def options(self, subject: Subject, ratio: float) -> Iterable[RuleOptions]:
        return ()

    def replacement(self, subject: Subject, **options: Any) -> NoReturn:
        raise RewriteError(f"{subject.name}: {_WHY}")

    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        layer = modules[replacement.name]
        weight = weight_of(layer).detach().to("cpu", torch.float64)
        rank = replacement.convs[0].spec.out_channels
        through = None if moments is None else (lambda a: a @ moments.covariance[0] @ a.mT)
        last, first = reduced(weight, rank, through)
        bias = layer.bias.detach().double() if isinstance(layer.bias, torch.Tensor) else None
        if moments is not None and bias is not None:
            bias = bias + (weight - last @ first) @ moments.mean[0]
        return {replacement.name: [(first, None), (last, bias)]}
