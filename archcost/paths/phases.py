"""Any convolution as a few of stride 1, undilated and without padding: its phases.

Fast algorithms exist for the plain kind only. A stride s sorts the taps of the kernel by their remainder: the
taps k with the same k * dilation mod s all read the same pixels of every s-th row, one apart, so that each
sort is a plain convolution of its own and the outputs add up. A transposed convolution sorts its outputs in
the same way: each phase is a plain convolution by the mirrored taps, and nothing needs adding. What dilation
is left, d, parts rows into d that never meet; they go into the batch.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import gcd, prod

import torch
import torch.nn.functional as F

from archcost.paths.geometry import (
    Axes,
    axes_of,
    by_groups,
    padded,
    padded_elements,
    padding_of,
    spatial,
    trailing,
)
from archcost.paths.precision import compute_dtype
from archcost.paths.tensor import TensorPath
from archcost.spec import ConvSpec

__all__ = ["Dense", "Phase", "PhasedPath", "phases"]


@dataclass(frozen=True)
class Dense:
    """A convolution of stride 1, without dilation or padding, of which only the sizes matter."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: Axes
    output_size: Axes

    @property
    def input_size(self) -> Axes:
        return tuple(n + k - 1 for n, k in zip(self.output_size, self.kernel_size, strict=True))


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
    """One plain convolution of a spec: which taps and pixels it takes, and which outputs it adds to."""

    axes: tuple[_AxisPhase, ...]
    dense: Dense


@lru_cache(maxsize=1024)
def phases(spec: ConvSpec) -> tuple[Phase, ...]:
    """The plain convolutions that make up this one; positions are those of the padded input."""
    names = ("kernel_size", "stride", "dilation")
    columns = zip(*(spatial(spec, name) for name in names), padding_of(spec), spec.output_size, strict=True)
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
            ),
        )
        for axes in product(*every_axis)
    )


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


class PhasedPath(TensorPath):
    """A path that knows how to execute a `Dense` convolution, and so all of them."""

    def _prepare(self, weight: torch.Tensor, spec: ConvSpec) -> list[torch.Tensor]:
        """Each phase's taps, transformed in float64, in the dtype computed in."""
        exact = by_groups(weight.double(), spec)
        content = []
        for phase in phases(spec):
            taps = exact[trailing(axis.kernel for axis in phase.axes)]
            if spec.transposed:
                taps = taps.flip(tuple(range(-axes_of(spec), 0)))
            content.append(self._transform(taps, phase.dense).to(compute_dtype(weight.dtype)))
        return content

    def _run(self, x: torch.Tensor, content: list[torch.Tensor], spec: ConvSpec) -> torch.Tensor:
        parts = phases(spec)
        x, offsets = _bordered(x, spec, parts)
        if len(parts) == 1 and not spec.transposed:
            return self._part(x, content[0], parts[0], offsets)
        y = x.new_zeros(x.shape[0], spec.out_channels, *spec.output_size)
        for phase, weight in zip(parts, content, strict=True):
            window = trailing(slice(axis.writes, None, axis.writes_every) for axis in phase.axes)
            y[window] += self._part(x, weight, phase, offsets)
        return y

    def _part(self, x: torch.Tensor, weight: torch.Tensor, phase: Phase, offsets: list[int]) -> torch.Tensor:
        seen = trailing(
            slice(axis.reads + offset, axis.last_read + offset + 1, axis.reads_every)
            for axis, offset in zip(phase.axes, offsets, strict=True)
        )
        folded = _folded(x[seen], phase)
        return _unfolded(self._dense(folded, weight, phase.dense), phase)

    def multiplications(self, spec: ConvSpec) -> int:
        return sum(self._products(phase.dense) for phase in phases(spec))

    def transform_multiplications(self, spec: ConvSpec) -> int:
        return sum(self._transforms(phase.dense) for phase in phases(spec))

    def workspace_bytes(self, spec: ConvSpec, itemsize: int = 4) -> int:
        """The padded input, all weights transformed, and the buffers of the largest phase.

        Several phases also need a phase's pixels and its outputs on their own.
        """
        parts = phases(spec)
        weights = sum(self._weights(phase.dense) for phase in parts)
        largest = max((self._buffers(part.dense) + _phase_elements(spec, part) for part in parts), default=0)
        return itemsize * (_bordered_elements(spec, parts) + weights + largest)

    @abstractmethod
    def _transform(self, taps: torch.Tensor, dense: Dense) -> torch.Tensor:
        """(groups, out, in, *kernel_size) in float64 to what `_dense` wants."""

    @abstractmethod
    def _dense(self, x: torch.Tensor, weight: torch.Tensor, dense: Dense) -> torch.Tensor:
        """(batch, in_channels, *output_size + kernel_size - 1) to (batch, out_channels, *output_size)."""

    @abstractmethod
    def _products(self, dense: Dense) -> int:
        """Multiplications of data by weights."""

    @abstractmethod
    def _transforms(self, dense: Dense) -> int:
        """Multiplications by constants, the weights' transform apart."""

    @abstractmethod
    def _weights(self, dense: Dense) -> int:
        """Elements of the transformed weights."""

    @abstractmethod
    def _buffers(self, dense: Dense) -> int:
        """Elements of the largest buffers that exist at a time, input and output apart."""


def _bordered(x: torch.Tensor, spec: ConvSpec, parts: tuple[Phase, ...]) -> tuple[torch.Tensor, list[int]]:
    """The input with all the pixels that phases read, and where pixel 0 of each axis now is."""
    if not spec.transposed:
        return padded(x, spec), [0] * axes_of(spec)
    sides = _transposed_sides(spec, parts)
    flat = [side for pair in reversed(sides) for side in pair]
    return (F.pad(x, flat) if any(flat) else x), [low for low, _ in sides]


def _transposed_sides(spec: ConvSpec, parts: tuple[Phase, ...]) -> list[tuple[int, int]]:
    """Zeros before and behind the input that the outermost outputs read."""
    sides = []
    for axis, n in enumerate(spatial(spec, "input_size")):
        reads = [phase.axes[axis] for phase in parts]
        low = max((-one.reads for one in reads), default=0)
        high = max((one.last_read - (n - 1) for one in reads), default=0)
        sides.append((max(0, low), max(0, high)))
    return sides


def _bordered_elements(spec: ConvSpec, parts: tuple[Phase, ...]) -> int:
    if not spec.transposed:
        return padded_elements(spec)
    sides = _transposed_sides(spec, parts)
    if not any(map(any, sides)):
        return 0
    sizes = (n + low + high for n, (low, high) in zip(spatial(spec, "input_size"), sides, strict=True))
    return spec.batch * spec.in_channels * prod(sizes)


def _phase_elements(spec: ConvSpec, phase: Phase) -> int:
    """A phase's outputs before they are added, and its pixels where they are folded into the batch."""
    folded = max(axis.fold for axis in phase.axes) > 1
    total = 0
    if folded or len(phases(spec)) > 1:
        total += spec.batch * spec.out_channels * prod(axis.count for axis in phase.axes)
    if folded:
        total += phase.dense.batch * phase.dense.in_channels * prod(phase.dense.input_size)
    return total


def _folded(x: torch.Tensor, phase: Phase) -> torch.Tensor:
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


def _unfolded(y: torch.Tensor, phase: Phase) -> torch.Tensor:
    """The reverse of `_folded`, for the outputs."""
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
