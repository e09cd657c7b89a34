"""Batch normalisations folded into the convolutions before them while a model is planned and fitted."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from archcost.errors import Refusal
from archcost.merging.branches import affine_of
from archcost.merging.norms import is_norm
from archcost.optimizing.ends import as_wide, last_of
from archcost.optimizing.layers import Layer, layers_of
from archcost.rewriting.survey.rows import row_of
from archcost.rewriting.survey.survey import Survey
from archcost.surgery.copying import copied
from archcost.surgery.exchange import replace as exchange

__all__ = ["Folded", "folded"]

_LEAST = 1e-3
"""Factors of channels below this share of their median are not divided by."""


@dataclass(frozen=True, eq=False)
class Folded:
    """A model with batch normalisations folded into the convolutions before them, and as it was given.

    With the norm in it a convolution has an intercept, and errors of its channels weigh as much as the layers
    behind see of them.
    """

    given: nn.Module
    model: nn.Module
    """A copy in eval mode; the given model itself where there is nothing to fold."""
    layers: tuple[Layer, ...]
    """The layers of ``model``."""
    old: Mapping[str, Layer]
    """The layers of ``given``, by name."""
    norms: Mapping[str, str]
    """The name of the norm behind a convolution, by the convolution's."""

    def undone(self, work: nn.Module) -> nn.Module:
        """A changed copy of ``model``, in place, with the norms where they were: the same function."""
        if not self.norms:
            return work
        made = {
            norm: self._norm(work, name, norm)
            for name, norm in self.norms.items()
            if as_wide(self.model, work, name)  # what is narrower keeps its norm within
        }
        exchange(work, made, inplace=True)
        for name, module in self.given.named_modules():
            there = work.get_submodule(name)
            for one in [there] if any(module.children()) else there.modules():
                one.training = module.training
        return work

    @torch.no_grad()
    def _norm(self, work: nn.Module, name: str, norm_name: str) -> nn.Module:
        """The norm to put behind a convolution of ``work``, whose weights are divided by its factors."""
        norm = copy.deepcopy(self.given.get_submodule(norm_name))
        old, was = self.given.get_submodule(name), self.model.get_submodule(name)
        last = last_of(work.get_submodule(name))
        assert isinstance(last, _ConvNd)
        assert isinstance(old, _ConvNd)
        assert isinstance(was, _ConvNd)
        assert last.bias is not None
        assert was.bias is not None
        same = last.weight.shape == was.weight.shape and torch.equal(last.weight, was.weight)
        if same and torch.equal(last.bias, was.bias):
            last.weight.copy_(old.weight)
            last.bias = None if old.bias is None else nn.Parameter(old.bias.clone(), old.bias.requires_grad)
            return norm
        factor, wanted = affine_of(norm)[0], last.bias.double()
        gain = getattr(norm, "weight", None)
        if isinstance(gain, Tensor):
            usual = float(factor.abs().median()) or 1.0
            small = factor.abs() < _LEAST * usual
            unit = (norm.running_var.double() + norm.eps).sqrt()  # type: ignore[operator]
            gain.copy_(torch.where(small, usual * unit, gain.double()))
            factor = affine_of(norm)[0]
        last.weight.copy_(last.weight.double() / factor.reshape(-1, *[1] * (last.weight.dim() - 1)))
        last.bias = None if old.bias is None else nn.Parameter(old.bias.clone(), old.bias.requires_grad)
        own = torch.zeros_like(wanted) if last.bias is None else last.bias.double()
        lacks = wanted - factor * own - affine_of(norm)[1]
        shift = getattr(norm, "bias", None)
        if isinstance(shift, Tensor):
            shift.add_(lacks)
        else:
            norm.running_mean.sub_(lacks / factor)  # type: ignore[operator]
        return norm


def folded(survey: Survey, exclude: Iterable[str] = ()) -> Folded:
    """The layers of a model, with every batch normalisation folded that a convolution alone feeds."""
    given = layers_of(survey, exclude)
    old = {one.name: one for one in given}
    if not any(is_norm(module) for module in survey.model.modules()):
        return Folded(survey.model, survey.model, given, old, {})
    twin = copied(survey.model).eval()
    seen = replace(survey, model=twin, _found={})
    norms = _norms(replace(seen, hooks="refuse"), given)
    if not norms:
        return Folded(survey.model, survey.model, given, old, {})
    for name, norm in norms.items():
        _fold(twin.get_submodule(name), twin.get_submodule(norm))
    exchange(twin, {norm: nn.Identity() for norm in norms.values()}, inplace=True)
    # The trace is that of the given model: what a bias adds to a layer's parameters is counted here.
    layers = tuple(
        replace(one, params=one.params + one.spec.out_channels)
        if one.name in norms and not old[one.name].spec.bias
        else one
        for one in layers_of(replace(survey, model=twin, _found={}), exclude)
    )
    return Folded(survey.model, twin, layers, old, norms)


def _norms(survey: Survey, layers: Iterable[Layer]) -> dict[str, str]:
    """The norm right behind each convolution, where it is the only one that feeds it."""
    found: dict[str, str] = {}
    for layer in layers:
        subject = survey.subjects.get(layer.name)
        if subject is None or subject.refusal is not None or subject.spec.transposed:
            continue
        if not isinstance(layer.module, _ConvNd):
            continue
        row = row_of(subject)
        norm = next(iter(row.ends), None)
        if norm is None or not is_norm(survey.model.get_submodule(norm)) or norm in found.values():
            continue
        upto = row.up_to(norm)
        if isinstance(upto, Refusal) or upto[1][norm]:  # an activation inside
            continue
        if len(survey.flow.calls(norm)) == len(subject.ops):
            found[layer.name] = norm
    return found


@torch.no_grad()
def _fold(conv: nn.Module, norm: nn.Module) -> None:
    assert isinstance(conv, _ConvNd)
    factor, shift = affine_of(norm)
    weight = conv.weight.double() * factor.reshape(-1, *[1] * (conv.weight.dim() - 1))
    bias = shift if conv.bias is None else shift + factor * conv.bias.double()
    conv.weight.copy_(weight)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), conv.weight.requires_grad)
