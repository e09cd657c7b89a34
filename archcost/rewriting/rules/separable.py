"""separable: a depthwise and a pointwise convolution, space and channels factored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from archcost.errors import Refusal, RewriteError
from archcost.merging.chain import Chain, Conv
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import RuleOptions
from archcost.rewriting.rules.linear import (
    LinearChain,
    as_weight,
    chain_macs,
    count,
    depthwise,
    of_group,
    pointwise,
    rank_for,
    taps,
    upright,
)
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec
from archcost.weights.lowrank import balanced, root, truncated
from archcost.weights.moments import Moments
from archcost.weights.unfolded import IN, OUT, Unfolded

__all__ = ["Separable"]

_ORDERS = ("depthwise-first", "pointwise-first")
_SLOW = "pointwise first, PyTorch runs its grouped convolution slowly: go by measured times, not by MACs"


class Separable(LinearChain):
    """KxK -> a depthwise KxK and a 1x1, or a sum of several such pairs.

    F. Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions" (CVPR 2017); A. Howard et al.,
    "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications" (arXiv:1704.04861,
    2017). Seen as low rank: depthwise first, each input channel's matrix (out, taps) is replaced by a matrix
    of rank ``terms``; pointwise first, each output channel's matrix (taps, in).

    Options: ``terms``, the rank, by default with half the MACs; ``order``, "depthwise-first" (``terms``
    kernels for each input channel) or "pointwise-first" (each output channel sums ``terms`` filtered maps).

    The depthwise convolution keeps stride and padding. Transposed convolutions work alike.
    """

    name = "separable"
    change = "KxK -> depthwise KxK, 1x1"
    break_even = (
        "depthwise first: T < K^2 O / (K^2 + O), exact at T = min(K^2, O); pointwise first: "
        "T < K^2 I / (K^2 + s^2 I), exact at T = min(K^2, I): T terms, I and O channels in and out of a "
        "group, s the stride"
    )

    def unfit(self, spec: ConvSpec) -> Refusal | None:
        if depthwise(spec):
            return Refusal("it is depthwise already")
        if taps(spec) == 1:
            return Refusal("a 1x1 has a single tap: nothing to separate")
        return None

    def cheapest(self, spec: ConvSpec) -> Chain:
        return min((_chain(spec, 1, order) for order in _ORDERS), key=chain_macs)

    def options(self, subject: Subject, ratio: float) -> Iterator[RuleOptions]:
        """Both orders, where they save MACs."""
        spec = subject.spec
        for order in _ORDERS:
            terms = _fitting(spec, order, ratio)
            if chain_macs(_chain(spec, terms, order)) < spec.macs:
                yield {"terms": terms, "order": order}

    def lossless(self, spec: ConvSpec) -> Iterator[RuleOptions]:
        for order in _ORDERS:
            yield {"terms": _full(spec, order), "order": order}

    def built(self, subject: Subject, terms: int | None = None, order: str = _ORDERS[0]) -> Replacement:
        spec = self.checked(subject)
        if order not in _ORDERS:
            raise RewriteError(
                f"{subject.name}: order={order!r} is not valid; give one of {', '.join(_ORDERS)}"
            )
        full = _full(spec, order)
        terms = _fitting(spec, order, 0.5) if terms is None else count(subject, "terms", terms, full)
        note = _SLOW if order != _ORDERS[0] and terms > 1 else ""
        return self.made(subject, _chain(spec, terms, order), terms == full, note, variant=order)

    def bound(self, spec: ConvSpec, variant: str | None = None) -> float:
        """The number of terms."""
        ins, outs = of_group(spec)
        k, jump = taps(spec), prod(spec.stride)
        # A transposed layer counts positions of its input, fewer than those of its output.
        front, back = (1, jump) if spec.transposed else (jump, 1)
        if variant in (None, "depthwise-first"):
            return k * outs / (k + back * outs)
        return k * ins / (k + front * ins)

    def factors(self, kernel: Tensor, replacement: Replacement, moments: Moments | None) -> list[Tensor]:
        """The truncated SVD of each input channel's matrix (out, taps), or output channel's (taps, in).

        With moments under the covariance of that channel's taps; or under the marginal covariances of taps
        and channels, as if that of the patches were their Kronecker product.
        """
        specs = [conv.spec for conv in replacement.convs]
        kernel = upright(kernel, replacement)
        groups, outs, ins = kernel.shape[:3]
        if taps(specs[0]) == 1:
            point, depth = _pointwise_first(kernel, specs[0].out_channels // (groups * outs), moments)
            return [as_weight(point, specs[0]), as_weight(depth, specs[1])]
        depth, point = _depthwise_first(kernel, specs[0].out_channels // (groups * ins), moments)
        return [as_weight(depth, specs[0]), as_weight(point, specs[1])]

    def lost(self, kernel: Unfolded, replacement: Replacement) -> float:
        first = replacement.convs[0].spec
        groups, outs, ins = kernel.kernel.shape[:3]
        if taps(first) == 1:
            return kernel.lost(first.out_channels // (groups * outs), (IN,), apart=(OUT,))
        return kernel.lost(first.out_channels // (groups * ins), (OUT,), apart=(IN,))


def _depthwise_first(kernel: Tensor, terms: int, moments: Moments | None) -> tuple[Tensor, Tensor]:
    """The kernels (groups * in, terms, 1, *k) and (groups, out, in * terms, 1, ...)."""
    groups, outs, ins, *space = kernel.shape
    matrix = kernel.transpose(1, 2).flatten(3)  # (groups, in, out, taps)
    if moments is not None:
        k = matrix.shape[-1]
        own = moments.covariance.reshape(groups, ins, k, ins, k).diagonal(dim1=1, dim2=3)
        under = root(own.permute(0, 3, 1, 2))
        matrix = matrix @ under
    mixed, seen = truncated(matrix, terms)
    if moments is not None:
        seen = torch.linalg.solve_triangular(under, seen, upper=False, left=False)
    mixed, seen = balanced(mixed, seen)
    depth = seen.reshape(groups * ins, terms, 1, *space)
    point = mixed.transpose(1, 2).reshape(groups, outs, ins * terms, *(1 for _ in space))
    return depth, point


def _pointwise_first(kernel: Tensor, terms: int, moments: Moments | None) -> tuple[Tensor, Tensor]:
    """The kernels (groups, out * terms, in, 1, ...) and (groups * out, 1, terms, *k)."""
    groups, outs, ins, *space = kernel.shape
    matrix = kernel.flatten(3).transpose(2, 3)  # (groups, out, taps, in)
    if moments is not None:
        channels, around = root(moments.marginal((0,))), root(moments.marginal(range(1, 1 + len(space))))
        matrix = torch.einsum("goki,gij,gkl->golj", matrix, channels, around)
    seen, mixed = truncated(matrix, terms)  # (.., taps, terms) and (.., terms, in)
    mixed = mixed.reshape(groups, outs * terms, ins)
    if moments is not None:
        wide = seen.transpose(1, 2).flatten(2)  # (groups, taps, out * terms)
        wide = torch.linalg.solve_triangular(around.mT, wide, upper=True)
        seen = wide.reshape(groups, -1, outs, terms).transpose(1, 2)
        mixed = torch.linalg.solve_triangular(channels, mixed, upper=False, left=False)
    seen, mixed = balanced(seen, mixed.reshape(groups, outs, terms, ins))
    depth = seen.mT.reshape(groups * outs, 1, terms, *space)
    return mixed.reshape(groups, outs * terms, ins, *(1 for _ in space)), depth


def _full(spec: ConvSpec, order: str) -> int:
    """The number of terms at which the chain is exact."""
    ins, outs = of_group(spec)
    return min(taps(spec), outs if order == "depthwise-first" else ins)


def _fitting(spec: ConvSpec, order: str, ratio: float) -> int:
    """The largest number of terms with at most ``ratio`` times the MACs."""
    return rank_for(lambda terms: _chain(spec, terms, order), ratio * spec.macs, _full(spec, order))


def _chain(spec: ConvSpec, terms: int, order: str) -> Chain:
    if order == "depthwise-first":
        wide = spec.in_channels * terms
        depth = replace(spec, out_channels=wide, groups=spec.in_channels, bias=False)
        return Conv(depth), Conv(pointwise(spec, wide, spec.out_channels, depth.output_size, spec.bias))
    wide = spec.out_channels * terms
    mixing = pointwise(spec, spec.in_channels, wide, spec.input_size, bias=False)
    return Conv(mixing), Conv(replace(spec, in_channels=wide, groups=spec.out_channels))


RULES, ORDER = (Separable(),), 40
