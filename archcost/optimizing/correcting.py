"""Errors of candidates corrected by those of weights that were really computed, at a few ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import exp, log

import numpy as np
import torch

from archcost.optimizing.allowance import Allowance
from archcost.optimizing.candidates import Candidate, family_of
from archcost.optimizing.carrying import composed, weights_of
from archcost.optimizing.layers import Layer
from archcost.optimizing.statistics import Statistics
from archcost.weights.features import weight_of

__all__ = ["corrected", "error_of"]

_POINTS = (0.08, 0.2, 0.5)
"""Shares of the layer's MACs at which weights are computed."""
_LEAST, _MOST = 1e-10, 1.0


def corrected(
    layer: Layer, candidates: Sequence[Candidate], seen: Statistics | None, time_left: Allowance
) -> list[Candidate]:
    """The candidates with errors as their weights have them, by family; as they are once its time is up.

    Under a covariance the spectra of families that factor other axes than outputs against inputs are those of
    marginal ones: at three ranks of each family the weights are computed, and the ratio of errors is
    interpolated between. From the weights alone the closed forms are the best there is, or near it.
    """
    if seen is None:
        return list(candidates)
    families: dict[str, list[Candidate]] = defaultdict(list)
    for one in candidates:
        families[family_of(one)].append(one)
    found: list[Candidate] = []
    for all_ in families.values():
        form = all_[0].options.get("form")
        if layer.linear or form == "out" or all_[0].others:
            found += all_  # the closed form is the best there is, and the spectrum its error
            continue
        near = {
            one.macs: one
            for share in _POINTS
            if (one := min(all_, key=lambda one: abs(one.macs - share * layer.macs))).error > _LEAST
        }
        points = {
            macs: log(max(error_of(layer, one, seen), _LEAST) / one.error)
            for macs, one in near.items()
            if not time_left.passed
        }
        if not points:
            found += all_
            continue
        xs = sorted(points)
        ys = [points[x] for x in xs]
        found += [
            replace(one, error=min(_MOST, one.error * exp(float(np.interp(one.macs, xs, ys)))))
            for one in all_
        ]
    return found


def error_of(layer: Layer, one: Candidate, seen: Statistics | None) -> float:
    """The squared relative error of a candidate's weights, under the statistics of the layer's input."""
    own = weight_of(layer.module).detach().to("cpu", torch.float64)
    lost = (own - composed(layer, *weights_of(layer, one, seen))[0]).reshape(
        layer.spec.groups, -1, own[0].numel()
    )
    whole = own.reshape(lost.shape)
    if seen is None:
        return float(lost.square().sum() / whole.square().sum().clamp_min(1e-300))
    left, size = (float(seen.through(part).diagonal(dim1=1, dim2=2).sum()) for part in (lost, whole))
    return max(left, 0.0) / size if size > 0 else 0.0
