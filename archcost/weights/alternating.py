"""Alternating least squares for the stages of a chain of convolutions."""

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
"""Relative error below which iteration stops: less is lost in the rounding of float32."""
_SWEEPS = 30
_LARGE = 1e8
"""MACs of a sweep from which it is in float32."""
_MOST = 1e10
"""Most MACs of all sweeps together, but for a single one: about a second of a core."""
_FAR = 2e11
"""Most MACs of a single sweep; the matrix of a depthwise 32x32 with 128 outputs a channel has 64 GiB."""
_STEPS = 5
"""Iterations of conjugate gradients in each sweep, for a stage without a closed form."""


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
    """Kernels of a chain improved by alternating least squares, a stage at a time with the others fixed::

        minimise || (target - composed(kernels)) C^(1/2) ||

    the error of the output for inputs whose patches have the covariance C (the data-aware objective of X.
    Zhang, J. Zou, K. He and J. Sun, "Accelerating Very Deep Convolutional Networks for Classification and
    Detection", IEEE TPAMI 2016). The last stage, and without C the first, is a linear least squares problem
    with the same normal equations for each of its output (input) channels, solved by Cholesky; other stages
    take preconditioned conjugate gradients. The error never increases. In float64, except for kernels so
    large that sweeps take long.

    Args:
        kernels: the initial kernels, in the shapes of the stages' weights.
        specs: the convolutions of the stages; strides, dilations and groups are read.
        target: (groups, out / groups, in / groups, *size), over all pixels of its extent or, for a dilated
            layer, its taps alone.
        groups: number of groups of the target.
        covariance: (groups, D, D), with D = in / groups * size of the ``target``; None is the identity.
        sweeps: the most sweeps over all stages; by default 30, fewer where they would take more than some
            seconds. There is none where a single one takes far longer.
        tolerance: stop when a sweep decreases the squared error by less than this share; by default 3e-3,
            and 1e-2 with a covariance, where a sweep costs more.

    Returns:
        The kernels in float64.

    Raises:
        RewriteError: the chain has another extent than the target, or reaches between its taps.
    """
    work = work_of(kernels, target, covariance)
    if covariance is None and work > _FAR:
        return [kernel.to(torch.float64) for kernel in kernels]
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
        if last:  # extrapolate the sweep: alternation alone converges slowly
            ahead = [b + reach * (n - b) for b, n in zip(at, now, strict=True)]
            there, left = _slope(target - chain.composed(ahead), given)
            reach = reach * 1.5 if left < error else max(reach / 2, 1.5)
            if left < error:
                now, slope, error = ahead, there, left
        if start - error <= tolerance * start:
            break
    return [kernel.to(torch.float64) for kernel in now]


def on_taps(kernels: Kernels, specs: Specs, size: Sizes, groups: int = 1) -> Tensor:
    """The composed kernel over ``size``: all pixels as `compose.composed`, or the taps of a dilated layer.

    Raises:
        RewriteError: the chain has another extent than ``size``, or reaches between its taps.
    """
    return _Chain(specs, _steps(kernels, specs, size), groups).composed(kernels)


class _Chain:
    """The stages of a chain, with the distances of their taps in pixels."""

    def __init__(self, specs: Specs, steps: Sequence[tuple[int, ...]], groups: int) -> None:
        self.inner = [spec.groups for spec in specs]
        self.steps = steps
        self.groups = groups

    def composed(self, kernels: Kernels, first: int = 0, stop: int | None = None) -> Tensor:
        """The composed kernel of stages first to stop - 1: (G, outputs, inputs, *extent)."""
        total = spread(dense(kernels[first], self.inner[first], self.groups), self.steps[first])
        for stage in range(first + 1, len(kernels) if stop is None else stop):
            total = stacked(kernels[stage], self.inner[stage], total, self.steps[stage])
        return total

    def updated(
        self, kernels: list[Tensor], stage: int, residual: Tensor, given: Tensor | None
    ) -> list[Tensor]:
        """The kernels with one stage improved; ``residual`` is that of `_slope`, times the covariance."""
        if stage == len(kernels) - 1:
            new = self._last(kernels, residual, given)
        elif stage == 0 and given is None:
            new = self._first(kernels, residual)
        else:
            new = self._between(kernels, stage, residual, given)
        return [*kernels[:stage], new, *kernels[stage + 1 :]]

    def _inputs(self, kernels: Kernels, stage: int, ins: int) -> Tensor:
        """The stages before a stage, composed: (G, inputs of the stage, I, *extent)."""
        if stage:
            return self.composed(kernels, 0, stage)
        one = torch.eye(ins, dtype=kernels[0].dtype, device=kernels[0].device)
        return one.expand(self.groups, ins, ins).reshape(self.groups, ins, ins, *(1,) * len(self.steps[0]))

    def _last(self, kernels: Kernels, residual: Tensor, given: Tensor | None) -> Tensor:
        """The last stage in closed form: normal equations over its inputs and taps, shared by a group's
        outputs."""
        stage = len(kernels) - 1
        kernel, step = kernels[stage], self.steps[stage]
        before = self._inputs(kernels, stage, residual.shape[2])
        slope = _onto(residual, before, self.inner[stage], kernel.shape[2:], step)
        matrix = factored(normal(before, self.inner[stage], kernel.shape[2:], step, given))
        gain = torch.cholesky_solve(slope.flatten(2).transpose(1, 2), matrix)
        return kernel + gain.transpose(1, 2).reshape(kernel.shape)

    def _first(self, kernels: Kernels, residual: Tensor) -> Tensor:
        """The first stage in closed form: as the last, with inputs and outputs exchanged."""
        kernel, step, inner = kernels[0], self.steps[0], self.inner[0]
        after = self.composed(kernels, 1).transpose(1, 2)  # (G, M, O, *)
        slope = _onto(residual.transpose(1, 2), after, inner, kernel.shape[2:], step)  # (inner, i, m, *taps)
        matrix = factored(normal(after, inner, kernel.shape[2:], step, None))
        gain = torch.cholesky_solve(slope.flatten(2).transpose(1, 2), matrix).transpose(1, 2)
        return kernel + gain.reshape(slope.shape).transpose(1, 2).reshape(kernel.shape)

    def _between(self, kernels: Kernels, stage: int, residual: Tensor, given: Tensor | None) -> Tensor:
        """A middle stage by conjugate gradients, preconditioned by a Kronecker product."""
        kernel, step, inner = kernels[stage], self.steps[stage], self.inner[stage]
        taps = kernel.shape[2:]
        before = self._inputs(kernels, stage, residual.shape[2])
        after = self.composed(kernels, stage + 1)
        reach = [(t - 1) * s + x for t, s, x in zip(taps, step, before.shape[3:], strict=True)]
        mean = None if given is None else windowed(given, residual.shape[2:], reach)
        matrix = factored(normal(before, inner, taps, step, mean), 1e-6)
        rows = after.transpose(1, 2).reshape(inner, kernel.shape[0] // inner, -1)  # a row for each output
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
    """Approximate MACs of a sweep of `refined`."""
    after = kernels[1:] or kernels
    work = max(4.0 * target.numel() * prod(kernel.shape[1:]) for kernel in after)
    work += sum(float(prod(kernel.shape[1:])) ** 3 for kernel in after)
    if covariance is not None:
        return work + _STEPS * target.numel() * covariance.shape[-1]
    first = kernels[0]
    parts = max(1, target.shape[0] * target.shape[2] // first.shape[1])  # matrices, one for a group of inputs
    side = first.numel() / (parts * first.shape[1])
    return work + parts * side**3 / 6


def _onto(residual: Tensor, before: Tensor, groups: int, taps: Sizes, step: Sizes) -> Tensor:
    """Correlation of a residual (G, q, I, *) with a stage's inputs (G, p, I, *): (groups, q', p', *taps)."""
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
    """The residual times C."""
    return residual if given is None else (residual.flatten(2) @ given).reshape(residual.shape)


def _slope(residual: Tensor, given: Tensor | None) -> tuple[Tensor, float]:
    """The residual times C (the negative gradient), and the squared error."""
    seen = _through(residual, given)
    return seen, _dot(residual, seen)


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())


def _steps(kernels: Kernels, specs: Specs, size: Sizes) -> list[tuple[int, ...]]:
    """Distance of each stage's taps in elements of the target, which may be the taps of a dilated layer."""
    steps = steps_of(specs)
    sizes = [kernel.shape[2:] for kernel in kernels]
    axes = range(len(steps[0]))
    extent = [1 + sum((k[a] - 1) * s[a] for k, s in zip(sizes, steps, strict=True)) for a in axes]
    apart_by = [(e - 1) // (n - 1) if n > 1 else 1 for e, n in zip(extent, size, strict=True)]
    if any((n - 1) * d + 1 != e for n, d, e in zip(size, apart_by, extent, strict=True)):
        raise RewriteError(f"a chain of extent {tuple(extent)} cannot compose to a kernel of {tuple(size)}")
    reduced = []
    for k, s in zip(sizes, steps, strict=True):
        if any(k[a] > 1 and s[a] % apart_by[a] for a in axes):
            raise RewriteError(
                f"a chain with taps {s} apart cannot compose to a kernel with taps {tuple(apart_by)} apart"
            )
        reduced.append(tuple(s[a] // apart_by[a] if k[a] > 1 else 1 for a in axes))
    return reduced
