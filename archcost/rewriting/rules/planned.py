"""Rules of `archcost.optimize`: in plans alone, and not among those that are proposed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from archcost.errors import Refusal, RewriteError
from archcost.merging.branches import affine_of
from archcost.merging.chain import Chain, Conv
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Modules, Rewrite, RuleOptions, Weights, own_weights
from archcost.rewriting.survey.hidden import Hidden, hidden
from archcost.rewriting.survey.survey import Subject
from archcost.weights.elimination import instead
from archcost.weights.features import weight_of
from archcost.weights.lowrank import reduced
from archcost.weights.moments import Moments

__all__ = ["PLANNED", "LowRank", "Narrow", "narrower"]

_OF_LINEAR = "it is a convolution, and low_rank replaces linear layers: bottleneck is its low rank"


class LowRank(Rewrite):
    """A linear layer as two of ``rank`` features between; without moments by the truncated SVD."""

    name = "low_rank"
    change = "linear -> linear, linear"
    break_even = "R < I O / (I + O): R features between, I and O in and out"

    def refusal(self, subject: Subject) -> Refusal:
        return Refusal(_OF_LINEAR)

    def options(self, subject: Subject, ratio: float) -> Iterable[RuleOptions]:
        return ()

    def replacement(self, subject: Subject, **options: Any) -> NoReturn:
        raise RewriteError(f"{subject.name}: {_OF_LINEAR}")

    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        layer = modules[replacement.name]
        weight = weight_of(layer).detach().to("cpu", torch.float64)
        rank = replacement.convs[0].spec.out_channels
        through = None if moments is None else (lambda a: a @ moments.covariance[0] @ a.mT)
        last, first = reduced(weight, rank, through)
        bias = layer.bias.detach().double() if isinstance(layer.bias, Tensor) else None
        if moments is not None and bias is not None:
            bias = bias + (weight - last @ first) @ moments.mean[0]
        return {replacement.name: [(first, None), (last, bias)]}


class Narrow(Rewrite):
    """Fewer channels between two convolutions, or linear layers; the second one makes up for the others.

    The option ``keep`` has the numbers of the channels that stay. Depthwise convolutions between become as
    narrow, batch normalisations are folded into the convolutions before them.
    """

    name = "narrow"
    change = "layer, layer -> layer with fewer outputs, layer with fewer inputs"
    break_even = "always: C' of C channels between take C' / C of the MACs of all"

    def refusal(self, subject: Subject) -> Refusal | None:
        found = hidden(subject)
        return found if isinstance(found, Refusal) else None

    def options(self, subject: Subject, ratio: float) -> Iterable[RuleOptions]:
        return ()

    def replacement(self, subject: Subject, *, keep: Sequence[int] = (), **unknown: Any) -> Replacement:
        found = hidden(subject)
        if isinstance(found, Refusal):
            raise RewriteError(f"{subject.name}: {found}")
        if unknown:
            raise RewriteError(f"{subject.name}: narrow takes keep= alone")
        return narrower(found, keep)

    def fitted(self, replacement: Replacement) -> str:
        return list(replacement.chains)[-1]

    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        keep, last = list(replacement.keep), self.fitted(replacement)
        made: Weights = {}
        maker = ""
        for name, chain in replacement.chains.items():
            if name == last:
                continue
            if chain:
                weight, bias = own_weights(modules[name])
                made[name] = [(weight[keep], None if bias is None else bias[keep])]
                maker = name
            else:  # a norm
                factor, shift = (value[keep] for value in affine_of(modules[name]))
                weight, bias = made[maker][0]
                bias = shift if bias is None else shift + factor * bias
                made[maker] = [(weight * factor.reshape(-1, *[1] * (weight.dim() - 1)), bias)]
        weight, bias = own_weights(modules[last])
        new = weight[:, keep]
        if moments is not None:
            new = instead(weight, moments.covariance[0], keep).to(weight)
            if bias is not None:
                bias = bias + self.lost(weight, new, keep).flatten(1) @ moments.mean[0].to(bias)
        return {**made, last: [(new, bias)]}

    @staticmethod
    def lost(weight: Tensor, new: Tensor, keep: Sequence[int]) -> Tensor:
        """The weight less that of the kept channels, in the shape of the weight."""
        lost = weight.clone()
        lost[:, list(keep)] -= new
        return lost


def narrower(found: Hidden, keep: Sequence[int]) -> Replacement:
    """The layers with some of the channels; norms become nothing, and convolutions before them have a bias.

    Args:
        keep: the numbers of the channels that stay, ascending.

    Raises:
        RewriteError: there are no such channels.
    """
    stay, maker = tuple(map(int, keep)), found.makers[0]
    if not stay or list(stay) != sorted(set(stay)) or not 0 <= stay[0] <= stay[-1] < found.width:
        raise RewriteError(
            f"{maker}: narrow takes keep=, numbers of some of its {found.width} channels, ascending"
        )
    count, biased = len(stay), set(found.norms.values())
    chains: dict[str, Chain] = {}
    for name, spec in found.specs.items():
        if name == maker:
            new = replace(spec, out_channels=count)
        elif name == found.reader:
            new = replace(spec, in_channels=count)
        else:
            new = replace(spec, in_channels=count, out_channels=count, groups=count)
        chains[name] = (Conv(replace(new, bias=spec.bias or name in biased), linear=found.linear),)
        chains |= {norm: () for norm, before in found.norms.items() if before == name}
    return Replacement(chains, keep=stay)


PLANNED = (LowRank(), Narrow())
