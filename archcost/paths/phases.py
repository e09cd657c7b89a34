"""Any convolution as a few of stride 1, undilated and without padding: its phases.

Fast algorithms exist for the plain kind only. A stride s sorts the taps of the kernel by their remainder: the
taps k with the same k * dilation mod s all read the same pixels of every s-th row, one apart, so that each
sort is a plain convolution of its own and the outputs add up. A transposed convolution sorts its outputs in
the same way: each phase is a plain convolution by the mirrored taps, and nothing needs adding. What dilation
is left, d, parts rows into d that never meet; they go into the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import gcd, prod

import torch.nn.functional as F
from torch import Tensor

from archcost.paths.geometry import Axes, padded, padded_elements, trailing
from archcost.spec import ConvSpec

__all__ = [
    *("Dense", "Phase", "bordered", "bordered_elements", "folded", "is_dense", "phase_elements"),
    *("phases", "summed_phases", "unfolded"),
]


@dataclass(frozen=True)
class Dense:
    """The sizes of a convolution of stride 1 without dilation.

    Padding with zeros may be left to its executor.
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: Axes
    output_size: Axes
    padding: tuple[tuple[int, int], ...]

    @property
    def padded_size(self) -> Axes:
        return tuple(n + k - 1 for n, k in zip(self.output_size, self.kernel_size, strict=True))

    @property
    def input_size(self) -> Axes:
        return tuple(n - sum(sides) for n, sides in zip(self.padded_size, self.padding, strict=True))

    @property
    def depthwise(self) -> bool:
        """Whether there is nothing to sum over channels."""
        return self.in_channels == self.groups


@dataclass(frozen=True)
class _AxisPhase:
    """Output i, at ``writes + i * writes_every``, sums over t the input at ``reads + (i + t * fold) *
    reads_every`` times tap ``first_tap + t * tap_every`` (or, where transposed, the taps from behind)."""

    first_tap: int
    tap_every: int
    taps: int
    reads: int
    reads_every: int
    fold: int
    writes: int
    writes_every: int
    count: int

    @property
    def folded(self) -> int:
        """Outputs of each of the ``fold`` interleaved rows."""
        return -(-self.count // self.fold)

    @property
    def kernel(self) -> slice:
        return slice(self.first_tap, None, self.tap_every)

    @property
    def last_read(self) -> int:
        return self.reads + (self.count - 1 + (self.taps - 1) * self.fold) * self.reads_every


@dataclass(frozen=True)
class Phase:
    """A plain convolution of a spec: the taps and pixels that it takes, and the outputs that it adds to."""

    axes: tuple[_AxisPhase, ...]
    dense: Dense


def is_dense(spec: ConvSpec) -> bool:
    """Whether it is a plain convolution as it stands, padded with zeros or not at all."""
    steps = (*spec.stride, *spec.dilation)
    return not spec.transposed and max(steps) == 1 and spec.padding_mode == "zeros"


@lru_cache(maxsize=1024)
def phases(spec: ConvSpec) -> tuple[Phase, ...]:
    """The plain convolutions that make up this one; positions are those of the padded input.

    A convolution that `is_dense` is its own phase, padding included; all others are padded first.
    """
    padding = spec.padding if is_dense(spec) else ((0, 0),) * spec.axes
    names = ("kernel_size", "stride", "dilation")
    columns = zip(*(getattr(spec, name) for name in names), spec.padding, spec.output_size, strict=True)
    every_axis = [
        _transposed_axis(k, s, d, low, out) if spec.transposed else _forward_axis(k, s, d, out)
        for k, s, d, (low, _), out in columns
    ]
    return tuple(
        Phase(
            axes,
            Dense(
                batch=spec.batch * prod(axis.fold for axis in axes),
                in_channels=spec.in_channels,
                out_channels=spec.out_channels,
                groups=spec.groups,
                kernel_size=tuple(axis.taps for axis in axes),
                output_size=tuple(axis.folded for axis in axes),
                padding=padding,
            ),
        )
        for axes in product(*every_axis)
    )


def summed_phases(spec: ConvSpec) -> int:
    """How many phases add up in one output; those of a transposed convolution write outputs of their own."""
    return 1 if spec.transposed else len(phases(spec))


def _forward_axis(k: int, s: int, d: int, out: int) -> list[_AxisPhase]:
    """Output o reads o * s + k * d."""
    every, fold = s // gcd(s, d), d // gcd(s, d)
    return [
        _AxisPhase(first, every, len(range(first, k, every)), first * d, s, fold, 0, 1, out)
        for first in range(min(every, k))
    ]


def _transposed_axis(k: int, s: int, d: int, low: int, out: int) -> list[_AxisPhase]:
    """Input i is spread to o = i * s + k * d - low, so output o reads (o + low - k * d) / s."""
    every, fold = s // gcd(s, d), d // gcd(s, d)
    found = []
    for first in range(min(every, k)):
        taps = len(range(first, k, every))
        writes = (first * d - low) % s
        reads = (writes + low - first * d) // s - (taps - 1) * fold
        if writes < out:
            count = len(range(writes, out, s))
            found.append(_AxisPhase(first, every, taps, reads, 1, fold, writes, s, count))
    return found


def bordered(x: Tensor, spec: ConvSpec, parts: tuple[Phase, ...]) -> tuple[Tensor, list[int]]:
    """The input with all the pixels that phases read, and where pixel 0 of each axis now is."""
    if is_dense(spec):
        return x, [0] * spec.axes
    if not spec.transposed:
        return padded(x, spec), [0] * spec.axes
    sides = _transposed_sides(spec, parts)
    flat = [side for pair in reversed(sides) for side in pair]
    return (F.pad(x, flat) if any(flat) else x), [low for low, _ in sides]


def _transposed_sides(spec: ConvSpec, parts: tuple[Phase, ...]) -> list[tuple[int, int]]:
    """Zeros before and behind the input that the outermost outputs read."""
    sides = []
    for axis, n in enumerate(spec.input_size):
        reads = [phase.axes[axis] for phase in parts]
        low = max((-one.reads for one in reads), default=0)
        high = max((one.last_read - (n - 1) for one in reads), default=0)
        sides.append((max(0, low), max(0, high)))
    return sides


def bordered_elements(spec: ConvSpec, parts: tuple[Phase, ...]) -> int:
    """Elements of the copy that `bordered` makes."""
    if is_dense(spec):
        return 0
    if not spec.transposed:
        return padded_elements(spec)
    sides = _transposed_sides(spec, parts)
    if not any(map(any, sides)):
        return 0
    sizes = (n + low + high for n, (low, high) in zip(spec.input_size, sides, strict=True))
    return spec.batch * spec.in_channels * prod(sizes)


def phase_elements(spec: ConvSpec, phase: Phase) -> int:
    """A phase's outputs before they are added, and its pixels where they are folded into the batch."""
    folds = max(axis.fold for axis in phase.axes) > 1
    total = 0
    if folds or len(phases(spec)) > 1:
        total += spec.batch * spec.out_channels * prod(axis.count for axis in phase.axes)
    if folds:
        total += phase.dense.batch * phase.dense.in_channels * prod(phase.dense.input_size)
    return total


def folded(x: Tensor, phase: Phase) -> Tensor:
    """Rows that never meet, side by side in the batch: (batch, ...) to (folds * batch, ...)."""
    folds = [axis.fold for axis in phase.axes]
    if max(folds) == 1:
        return x
    wanted = [(axis.folded + axis.taps - 1) * axis.fold for axis in phase.axes]
    missing = [w - n for w, n in zip(wanted, x.shape[2:], strict=True)]
    x = F.pad(x, [side for m in reversed(missing) for side in (0, m)])
    for axis, fold in enumerate(folds):
        x = x.unflatten(2 + 2 * axis, (-1, fold))
    inner = [3 + 2 * axis for axis in range(len(folds))]
    outer = [2 + 2 * axis for axis in range(len(folds))]
    return x.permute(*inner, 0, 1, *outer).flatten(0, len(folds))


def unfolded(y: Tensor, phase: Phase) -> Tensor:
    """The reverse of `folded`, for the outputs."""
    folds = [axis.fold for axis in phase.axes]
    if max(folds) == 1:
        return y
    axes = len(folds)
    y = y.unflatten(0, (*folds, -1))
    pairs = [dim for axis in range(axes) for dim in (axes + 2 + axis, axis)]
    y = y.permute(axes, axes + 1, *pairs)
    for axis in range(axes):
        y = y.flatten(2 + axis, 3 + axis)
    return y[trailing(slice(one.count) for one in phase.axes)]
