"""asymmetric: a KxK convolution as a Kx1 and a 1xK convolution, its spatial axes factored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations
from math import prod

import torch

from archcost.errors import Refusal, RewriteError
from archcost.merging.chain import Chain, Conv
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import RuleOptions
from archcost.rewriting.rules.linear import (
    LinearChain,
    along,
    as_weight,
    chain_macs,
    count,
    of_group,
    rank_for,
    said,
    taps,
    upright,
)
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec
from archcost.weights.lowrank import balanced, root, truncated
from archcost.weights.moments import Moments
from archcost.weights.unfolded import OUT, TAPS, Unfolded

__all__ = ["Asymmetric"]

_AXES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}


class Asymmetric(LinearChain):
    """KxK -> Kx1 and 1xK, a low-rank factorisation of the kernel between its spatial axes.

    M. Jaderberg, A. Vedaldi and A. Zisserman, "Speeding up Convolutional Neural Networks with Low Rank
    Expansions" (BMVC 2014); trained from scratch in C. Szegedy et al., "Rethinking the Inception Architecture
    for Computer Vision" (CVPR 2016).

    Options: ``rank``, the channels of a group between the two (by default with half the MACs); ``first``, the
    axes of the first of the two: "height" is Kx1, then 1xK. In 3-d one factor has a single axis and the other
    the remaining two.

    Each factor has the stride, dilation and padding of its own axes. The first has no bias, so that it maps
    padding to padding and the border is exact without enlarged maps. Transposed convolutions work alike.
    """

    name = "asymmetric"
    change = "KxK -> Kx1, 1xK"
    break_even = (
        "R < K I O / (s I + O): R channels between, I and O channels in and out of a group, s the stride of "
        "the second stage"
    )

    def unfit(self, spec: ConvSpec) -> Refusal | None:
        if spec.axes == 1:
            return Refusal(f"its kernel of {said(spec.kernel_size)} has a single axis: nothing to factor")
        if len(_wide(spec)) < 2:
            return Refusal(
                f"its kernel of {said(spec.kernel_size)} extends along fewer than two axes: nothing to factor"
            )
        return None

    def cheapest(self, spec: ConvSpec) -> Chain:
        return min((_chain(spec, 1, axes) for axes in _ways(spec)), key=chain_macs)

    def options(self, subject: Subject, ratio: float) -> Iterator[RuleOptions]:
        """Both orders, as only the weights tell which has the smaller error; in 3-d the first axis alone."""
        spec = subject.spec
        wide = _wide(spec)
        for axes in (wide[:1], wide[1:]):
            yield {"rank": _fitting(spec, axes, ratio), "first": _named(spec, axes)}

    def lossless(self, spec: ConvSpec) -> Iterator[RuleOptions]:
        for axes in _ways(spec):
            yield {"rank": _full(spec, axes), "first": _named(spec, axes)}

    def built(self, subject: Subject, rank: int | None = None, first: str | None = None) -> Replacement:
        spec = self.checked(subject)
        ways = {_named(spec, axes): axes for axes in _ways(spec)}
        if first is not None and first not in ways:
            raise RewriteError(f"{subject.name}: first={first!r} is not valid; give one of {', '.join(ways)}")
        axes = ways[first] if first is not None else _wide(spec)[:1]
        full = _full(spec, axes)
        rank = _fitting(spec, axes, 0.5) if rank is None else count(subject, "rank", rank, full)
        return self.made(subject, _chain(spec, rank, axes), rank == full, variant=first)

    def bound(self, spec: ConvSpec, variant: str | None = None) -> float:
        """The rank; for a kernel of k1 and k2 taps in the two stages ``k1 k2 I O / (s k1 I + k2 O)``."""
        ways = {_named(spec, axes): axes for axes in _ways(spec)}
        axes = ways[variant] if variant is not None else _wide(spec)[:1]
        ins, outs = of_group(spec)
        one = prod(k for axis, k in enumerate(spec.kernel_size) if axis in axes)
        two = taps(spec) // one
        later = prod(s for axis, s in enumerate(spec.stride) if axis in _others(spec, axes))
        sooner = prod(spec.stride) // later
        if spec.transposed:
            return float(taps(spec) * ins * outs / (one * ins + sooner * two * outs))
        return float(taps(spec) * ins * outs / (later * one * ins + two * outs))

    def factors(
        self, kernel: torch.Tensor, replacement: Replacement, moments: Moments | None
    ) -> list[torch.Tensor]:
        """The truncated SVD of the kernel as a matrix (out, taps of the second) x (in, taps of the first).

        With moments under the marginal covariances of both sides, as if that of the patches were their
        Kronecker product.
        """
        before, behind = (conv.spec for conv in replacement.convs)
        kernel = upright(kernel, replacement)
        groups, outs, ins = kernel.shape[:3]
        second = [axis for axis, k in enumerate(behind.kernel_size) if k > 1]
        first = [axis for axis in range(kernel.dim() - 3) if axis not in second]
        wide = prod(behind.kernel_size)
        order = [0, 1, *(3 + axis for axis in second), 2, *(3 + axis for axis in first)]
        matrix = kernel.permute(order).reshape(groups, outs * wide, -1)
        if moments is not None:
            rows, columns = (moments.marginal(axes) for axes in (_shift(second), (0, *_shift(first))))
            left, right = root(rows), root(columns)
            matrix = (left.mT[:, None] @ matrix.reshape(groups, outs, wide, -1)).flatten(1, 2) @ right
        b, a = truncated(matrix, before.out_channels // before.groups)
        if moments is not None:
            parts = b.reshape(groups, outs, wide, -1)
            b = torch.linalg.solve_triangular(left.mT[:, None], parts, upper=True).flatten(1, 2)
            a = torch.linalg.solve_triangular(right, a, upper=False, left=False)
        b, a = balanced(b, a)
        b = b.reshape(groups, outs, wide, -1).transpose(2, 3)
        a = a.reshape(groups, -1, ins, a.shape[-1] // ins)
        return [as_weight(a, before), as_weight(b, behind)]

    def lost(self, kernel: Unfolded, replacement: Replacement) -> float:
        before, behind = (conv.spec for conv in replacement.convs)
        second = [TAPS + axis for axis, k in enumerate(behind.kernel_size) if k > 1]
        return kernel.lost(before.out_channels // before.groups, (OUT, *second))


def _shift(axes: Iterable[int]) -> tuple[int, ...]:
    return tuple(1 + axis for axis in axes)


def _wide(spec: ConvSpec) -> tuple[int, ...]:
    """Axes along which the kernel has several taps."""
    return tuple(axis for axis, k in enumerate(spec.kernel_size) if k > 1)


def _others(spec: ConvSpec, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in _wide(spec) if axis not in axes)


def _ways(spec: ConvSpec) -> list[tuple[int, ...]]:
    """All choices of axes for the first stage."""
    wide = _wide(spec)
    return [axes for n in range(1, len(wide)) for axes in combinations(wide, n)]


def _named(spec: ConvSpec, axes: tuple[int, ...]) -> str:
    return "+".join(_AXES[spec.axes][axis] for axis in axes)


def _full(spec: ConvSpec, axes: tuple[int, ...]) -> int:
    """The rank at which the chain is exact."""
    ins, outs = of_group(spec)
    one: int = prod(spec.kernel_size[axis] for axis in axes)
    return min(ins * one, outs * taps(spec) // one)


def _fitting(spec: ConvSpec, axes: tuple[int, ...], ratio: float) -> int:
    """The largest rank with at most ``ratio`` times the MACs."""
    return rank_for(lambda rank: _chain(spec, rank, axes), ratio * spec.macs, _full(spec, axes))


def _chain(spec: ConvSpec, rank: int, axes: tuple[int, ...]) -> Chain:
    # An axis of a single tap may still have a stride or padding: it is the first stage's, which saves MACs.
    later = _others(spec, axes)
    sooner = [axis for axis in range(spec.axes) if axis not in later]
    middle = rank * spec.groups
    first = replace(along(spec, sooner), out_channels=middle, bias=False)
    second = replace(along(spec, later), in_channels=middle, input_size=first.output_size)
    return Conv(first), Conv(second)


RULES, ORDER = (Asymmetric(),), 20
