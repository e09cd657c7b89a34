"""Alternating least squares on the kernel that a chain of convolutions amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from archcost.errors import RewriteError
from archcost.merging.compose import apart, dense, spread, stacked, steps_of, windows
from archcost.spec import ConvSpec
from archcost.weights.quadratic import Sizes, factored, normal, windowed

__all__ = ["on_taps", "refined", "work_of"]

Kernels = Sequence[Tensor]
Specs = Sequence[ConvSpec]

_ENOUGH = 1e-8
"""A relative error below which nothing is gained in float32."""
_SWEEPS = 30
_LARGE = 1e8
"""MACs of a sweep from which float32 has to do."""
_MOST = 1e10
"""MACs of all sweeps together: about a second of one core."""
_STEPS = 5
"""Of conjugate gradients, for a stage without a closed form, in each sweep."""


def refined(
    kernels: Kernels,
    specs: Specs,
    target: Tensor,
    groups: int = 1,
    *,
    covariance: Tensor | None = None,
    sweeps: int | None = None,
    tolerance: float | None = None,
) -> list[Tensor]:
    """Better kernels for the stages of a chain, one stage at a time while the others stand still::

        minimise || (target - composed(kernels)) C^(1/2) ||

    which is the error of the output for inputs whose patches have the covariance C. The last stage, and
    without C the first one, is a linear least squares problem that falls apart into one for each of its
    output (input) channels and is solved by Cholesky; others take preconditioned conjugate gradients. The
    error never grows. In float64, but for kernels so large that sweeps take long.

    Args:
        kernels: to begin with, in the shapes of the stages' weights.
        specs: of the stages; strides, dilations and groups are read.
        target: (groups, out / groups, in / groups, *size): over all pixels of its extent, or, where the
            layer is dilated, the taps alone.
        groups: of the whole.
        covariance: (groups, D, D), with D = in / groups * size of the ``target``; None is the identity.
        sweeps: at most so many times over all stages; by default 30, and fewer, at least one, where they
            would take more than some seconds.
        tolerance: enough when a sweep takes less than this part off the squared error; by default 3e-3, and
            1e-2 with a covariance, where a sweep costs more.

    Raises:
        RewriteError: the chain has another extent than the target, or reaches between its taps.
    """
    work = work_of(kernels, target, covariance)
    wide = torch.float32 if work > _LARGE else torch.float64
    target = target.to(wide)
    chain = _Chain(specs, _steps(kernels, specs, target.shape[3:]), groups)
    now = [kernel.to(wide) for kernel in kernels]
    given = None if covariance is None else covariance.to(wide)
    scale = _slope(target, given)[1]
    if tolerance is None:
        tolerance = 3e-3 if given is None else 1e-2
    slope, error = _slope(target - chain.composed(now), given)
    last = len(now) - 1
    order = [last, *range(last)]
    reach = 2.0
    enough = (_ENOUGH if wide == torch.float64 else 1e-6) ** 2 * scale
    if error <= enough:
        return [kernel.to(torch.float64) for kernel in kernels]
    for _ in range(max(1, min(_SWEEPS, int(_MOST / work))) if sweeps is None else sweeps):
        if error <= enough:
            break
        start, at = error, list(now)
        for stage in order:
            new = chain.updated(now, stage, slope, given)
            there, left = _slope(target - chain.composed(new), given)
            if left < error:
                now, slope, error = new, there, left
        if last:  # further the way that the sweep went: alternation alone creeps
            ahead = [b + reach * (n - b) for b, n in zip(at, now, strict=True)]
            there, left = _slope(target - chain.composed(ahead), given)
            reach = reach * 1.5 if left < error else max(reach / 2, 1.5)
            if left < error:
                now, slope, error = ahead, there, left
        if start - error <= tolerance * start:
            break
    return [kernel.to(torch.float64) for kernel in now]


def on_taps(kernels: Kernels, specs: Specs, size: Sizes, groups: int = 1) -> Tensor:
    """The composed kernel over ``size``: as `compose.composed`, or on the taps of a dilated layer alone.

    Raises:
        RewriteError: as `refined`.
    """
    return _Chain(specs, _steps(kernels, specs, size), groups).composed(kernels)


class _Chain:
    """The stages of a chain with their taps so many pixels apart."""

    def __init__(self, specs: Specs, steps: Sequence[tuple[int, ...]], groups: int) -> None:
        self.inner = [spec.groups for spec in specs]
        self.steps = steps
        self.groups = groups

    def composed(self, kernels: Kernels, first: int = 0, stop: int | None = None) -> Tensor:
        """(G, outputs of the last, inputs of the first, *extent), of the stages first to stop - 1."""
        total = spread(dense(kernels[first], self.inner[first], self.groups), self.steps[first])
        for stage in range(first + 1, len(kernels) if stop is None else stop):
            total = stacked(kernels[stage], self.inner[stage], total, self.steps[stage])
        return total

    def updated(
        self, kernels: list[Tensor], stage: int, residual: Tensor, given: Tensor | None
    ) -> list[Tensor]:
        """The kernels with one of them better, the others as they are; ``residual`` is that of `_slope`."""
        if stage == len(kernels) - 1:
            new = self._last(kernels, residual, given)
        elif stage == 0 and given is None:
            new = self._first(kernels, residual)
        else:
            new = self._between(kernels, stage, residual, given)
        return [*kernels[:stage], new, *kernels[stage + 1 :]]

    def _inputs(self, kernels: Kernels, stage: int, ins: int) -> Tensor:
        """What the stage is given, as (G, its inputs, I, *extent): the stages before it, composed."""
        if stage:
            return self.composed(kernels, 0, stage)
        one = torch.eye(ins, dtype=kernels[0].dtype, device=kernels[0].device)
        return one.expand(self.groups, ins, ins).reshape(self.groups, ins, ins, *(1,) * len(self.steps[0]))

    def _last(self, kernels: Kernels, residual: Tensor, given: Tensor | None) -> Tensor:
        """Closed form: the normal equations over its inputs and taps, the same for all outputs of a group."""
        stage = len(kernels) - 1
        kernel, step = kernels[stage], self.steps[stage]
        before = self._inputs(kernels, stage, residual.shape[2])
        slope = _onto(residual, before, self.inner[stage], kernel.shape[2:], step)
        matrix = factored(normal(before, self.inner[stage], kernel.shape[2:], step, given))
        gain = torch.cholesky_solve(slope.flatten(2).transpose(1, 2), matrix)
        return kernel + gain.transpose(1, 2).reshape(kernel.shape)

    def _first(self, kernels: Kernels, residual: Tensor) -> Tensor:
        """Closed form: as the last stage, with inputs and outputs in each other's place."""
        kernel, step, inner = kernels[0], self.steps[0], self.inner[0]
        after = self.composed(kernels, 1).transpose(1, 2)  # (G, M, O, *)
        slope = _onto(residual.transpose(1, 2), after, inner, kernel.shape[2:], step)  # (inner, i, m, *taps)
        matrix = factored(normal(after, inner, kernel.shape[2:], step, None))
        gain = torch.cholesky_solve(slope.flatten(2).transpose(1, 2), matrix).transpose(1, 2)
        return kernel + gain.reshape(slope.shape).transpose(1, 2).reshape(kernel.shape)

    def _between(self, kernels: Kernels, stage: int, residual: Tensor, given: Tensor | None) -> Tensor:
        """Conjugate gradients on the exact quadratic, preconditioned by a Kronecker product."""
        kernel, step, inner = kernels[stage], self.steps[stage], self.inner[stage]
        taps = kernel.shape[2:]
        before = self._inputs(kernels, stage, residual.shape[2])
        after = self.composed(kernels, stage + 1)
        reach = [(t - 1) * s + x for t, s, x in zip(taps, step, before.shape[3:], strict=True)]
        mean = None if given is None else windowed(given, residual.shape[2:], reach)
        matrix = factored(normal(before, inner, taps, step, mean), 1e-6)
        rows = after.transpose(1, 2).reshape(inner, kernel.shape[0] // inner, -1)  # one for each output
        outs = factored(rows @ rows.transpose(1, 2), 1e-6)
        pixels = (1,) * len(step)

        def forward(change: Tensor) -> Tensor:
            return stacked(after.flatten(0, 1), self.groups, stacked(change, inner, before, step), pixels)

        def back(residual: Tensor) -> Tensor:
            seen = residual.new_zeros(self.groups, after.shape[2], residual.shape[2], *reach)
            flat = after.transpose(1, 2)  # (G, q, O, *)
            for tap, there in windows(after.shape[3:], pixels, reach):
                part = residual[there].flatten(2)
                seen += (flat[tap] @ part).reshape(seen.shape)
            return _onto(seen, before, inner, taps, step).reshape(kernel.shape)

        def preconditioned(slope: Tensor) -> Tensor:
            parts = torch.cholesky_solve(apart(slope, inner).flatten(2).transpose(1, 2), matrix)
            return torch.cholesky_solve(parts.transpose(1, 2), outs).reshape(kernel.shape)

        gain = torch.zeros_like(kernel)
        slope = back(residual)
        ahead = preconditioned(slope)
        way, size = ahead, _dot(slope, ahead)
        first = size
        for _ in range(_STEPS):
            if not size > 1e-8 * first:
                break
            image = back(_through(forward(way), given))
            curve = _dot(way, image)
            if not curve > 0:
                break
            gain = gain + size / curve * way
            slope = slope - size / curve * image
            ahead = preconditioned(slope)
            size, was = _dot(slope, ahead), size
            way = ahead + size / was * way
        return kernel + gain


def work_of(kernels: Kernels, target: Tensor, covariance: Tensor | None) -> float:
    """MACs of one sweep of `refined`, roughly."""
    after = kernels[1:] or kernels
    work = max(4.0 * target.numel() * prod(kernel.shape[1:]) for kernel in after)
    work += sum(float(prod(kernel.shape[1:])) ** 3 for kernel in after)
    return work if covariance is None else work + _STEPS * target.numel() * covariance.shape[-1]


def _onto(residual: Tensor, before: Tensor, groups: int, taps: Sizes, step: Sizes) -> Tensor:
    """Products of a residual (G, q, I, *) with the stage's inputs (G, p, I, *): (groups, q', p', *taps)."""
    ins, size = before.shape[2], before.shape[3:]
    left = residual.reshape(groups, -1, *residual.shape[2:])
    for axis, (wide, apart_by) in enumerate(zip(size, step, strict=True)):
        left = left.unfold(3 + axis, wide, apart_by)
    axes = len(size)
    order = (0, 1, *range(3, 3 + axes), 2, *range(3 + axes, 3 + 2 * axes))
    rows = left.permute(order).reshape(groups, -1, ins * prod(size))  # (groups, q * taps, I * size)
    right = before.reshape(groups, -1, ins * prod(size)).transpose(1, 2)
    out = (rows @ right).reshape(groups, -1, *taps, right.shape[2])
    return out.movedim(-1, 2)


def _through(residual: Tensor, given: Tensor | None) -> Tensor:
    """residual @ C."""
    return residual if given is None else (residual.flatten(2) @ given).reshape(residual.shape)


def _slope(residual: Tensor, given: Tensor | None) -> tuple[Tensor, float]:
    """residual @ C, and the squared error."""
    seen = _through(residual, given)
    return seen, _dot(residual, seen)


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())


def _steps(kernels: Kernels, specs: Specs, size: Sizes) -> list[tuple[int, ...]]:
    """Pixels of the target between the taps of each stage: between its taps where it has nothing else."""
    steps = steps_of(specs)
    sizes = [kernel.shape[2:] for kernel in kernels]
    axes = range(len(steps[0]))
    extent = [1 + sum((k[a] - 1) * s[a] for k, s in zip(sizes, steps, strict=True)) for a in axes]
    apart_by = [(e - 1) // (n - 1) if n > 1 else 1 for e, n in zip(extent, size, strict=True)]
    if any((n - 1) * d + 1 != e for n, d, e in zip(size, apart_by, extent, strict=True)):
        raise RewriteError(f"a chain that reaches over {tuple(extent)} pixels for a kernel of {tuple(size)}")
    reduced = []
    for k, s in zip(sizes, steps, strict=True):
        if any(k[a] > 1 and s[a] % apart_by[a] for a in axes):
            raise RewriteError(
                f"a chain with taps {s} apart for a kernel whose taps are {tuple(apart_by)} apart"
            )
        reduced.append(tuple(s[a] // apart_by[a] if k[a] > 1 else 1 for a in axes))
    return reduced
