"""A selection carried out on a copy of the model: new layers with weights in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import torch
from torch import Tensor, nn

from archcost.merging.chain import Conv
from archcost.optimizing.candidates import Candidate, replacement_of
from archcost.optimizing.layers import Layer
from archcost.optimizing.statistics import Sampled, Statistics, Whole
from archcost.rewriting.carry import factored
from archcost.rewriting.plan.building import built
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Factorisation, get
from archcost.surgery.exchange import replace
from archcost.surgery.sites import Hooks
from archcost.weights.alternating import on_taps
from archcost.weights.features import weight_of
from archcost.weights.lowrank import reduced, working_dtype

__all__ = ["Weights", "composed", "exchanged", "weights_of"]

Weights = list[tuple[Tensor, "Tensor | None"]]


def weights_of(layer: Layer, candidate: Candidate, seen: Statistics | None) -> tuple[Replacement, Weights]:
    """The new layers of a candidate, and weight and bias of each of their stages.

    Args:
        seen: the statistics of the layer's input; None: from the weights alone.
    """
    replacement = replacement_of(layer, candidate.rule, candidate.options)
    if candidate.others:
        return replacement, _narrow(layer, replacement, seen)
    if layer.linear or (candidate.options.get("form") == "out"):
        return replacement, _reduced(layer, replacement, seen)
    rule = get(candidate.rule)
    assert isinstance(rule, Factorisation)
    if seen is None or isinstance(seen, Whole):
        moments = None if seen is None else seen.moments
        made = factored(rule, layer.module, replacement, moments)
        return replacement, made
    return replacement, _sampled(layer, replacement, rule, seen)


def _narrow(layer: Layer, replacement: Replacement, seen: Statistics | None) -> Weights:
    assert layer.hidden is not None
    there = {name: layer.hidden.model.get_submodule(name) for name in replacement.chains}
    made = get("narrow").carry(there, replacement, seen.moments if isinstance(seen, Whole) else None)
    return [one for each in made.values() for one in each]


def _reduced(layer: Layer, replacement: Replacement, seen: Statistics | None) -> Weights:
    """Reduced-rank regression: the outputs projected on their leading directions."""
    weight = weight_of(layer.module).detach()
    weight = weight.to("cpu", working_dtype(weight, seen is not None))
    groups = layer.spec.groups
    flat = weight.reshape(groups, weight.shape[0] // groups, -1)
    first, last = (conv.spec for conv in replacement.convs)
    rank = last.in_channels // groups
    through = None if seen is None else seen.through
    behind, before = reduced(flat, rank, through)
    bias = _shifted(layer, flat - behind @ before, seen)
    shapes = [
        (spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_size) for spec in (first, last)
    ]
    if layer.linear:
        shapes = [shape[:2] for shape in shapes]
    one, two = (part.reshape(shape) for part, shape in zip((before, behind), shapes, strict=True))
    return [(one, None), (two, bias)]


def _shifted(layer: Layer, lost: Tensor, seen: Statistics | None) -> Tensor | None:
    """The bias, plus the mean of what the weights have lost, (groups, out, D)."""
    bias = layer.module.bias
    if not isinstance(bias, Tensor):
        return None
    bias = bias.detach().to("cpu", torch.float64)
    return bias if seen is None else bias + (lost @ seen.mean[:, :, None]).flatten()


def _sampled(layer: Layer, replacement: Replacement, rule: Factorisation, seen: Sampled) -> Weights:
    """The rule's closed form under marginal covariances, without iterations under a covariance that is too
    large."""
    weight = weight_of(layer.module).detach().to("cpu", torch.float64)
    kernel = weight.reshape(layer.spec.groups, -1, *weight.shape[1:])
    kernels = rule.factors(kernel, replacement, seen)  # type: ignore[arg-type]
    specs = [conv.spec for conv in replacement.convs]
    lost = kernel - on_taps(kernels, specs, kernel.shape[3:], layer.spec.groups)
    biases: list[Tensor | None] = [None] * (len(kernels) - 1)
    return list(zip(kernels, [*biases, _shifted(layer, lost.flatten(2), seen)], strict=True))


def composed(layer: Layer, replacement: Replacement, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """The one weight and bias that the new layers amount to, in the shape of the layer's own."""
    own, bias = weight_of(layer.module), weights[-1][1]
    if replacement.keep:
        whole = weights[-1][0].new_zeros(own.shape)
        whole[:, list(replacement.keep)] = weights[-1][0]
        return whole, bias
    if layer.linear:
        return (weights[1][0] @ weights[0][0]).reshape(own.shape), bias
    specs = [conv.spec for conv in replacement.convs]
    whole = on_taps([one for one, _ in weights], specs, own.shape[2:], layer.spec.groups)
    return whole.reshape(own.shape), bias


def exchanged(
    work: nn.Module, made: Mapping[str, tuple[Replacement, Weights]], hooks: Hooks = "refuse"
) -> None:
    """Exchange layers of a model in place."""
    new: dict[str, nn.Module] = {}
    for replacement, weights in made.values():
        left = iter(weights)
        for name, chain in replacement.chains.items():
            own = list(islice(left, sum(isinstance(step, Conv) for step in chain)))
            new[name] = built(chain, work.get_submodule(name), own, {})
    if new:
        replace(work, new, inplace=True, hooks=hooks)
