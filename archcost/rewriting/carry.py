"""The weights of a chain of convolutions from those of the convolution that it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, nan
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from archcost.errors import RewriteError
from archcost.merging.chain import Activation, Conv
from archcost.merging.compose import apart
from archcost.rewriting.replacement import Replacement
from archcost.spec import ConvSpec
from archcost.weights.alternating import on_taps, refined, work_of
from archcost.weights.biases import biases, evened
from archcost.weights.features import like_of, weight_of
from archcost.weights.lowrank import working_dtype
from archcost.weights.moments import Moments
from archcost.weights.unfolded import Unfolded

__all__ = ["errors_of_factors", "factored", "kernel_error", "predicted_error", "unfolded_of"]

Pairs = list[tuple[Tensor, "Tensor | None"]]

_QUICK = 1e8
"""Most MACs of a sweep of alternating least squares where only the error is asked for."""
_QUICK_SWEEPS = 2

_TRANSPOSED = "a chain cannot mix transposed layers with ordinary ones of more than one tap or stride"


class Factors(Protocol):
    """The part of `archcost.rewriting.rule.Factorisation` that is used here."""

    name: ClassVar[str]

    def factors(
        self, kernel: torch.Tensor, replacement: Replacement, moments: Moments | None
    ) -> list[torch.Tensor]: ...

    def lost(self, kernel: Unfolded, replacement: Replacement) -> float | None: ...


def factored(
    rule: Factors,
    module: nn.Module,
    replacement: Replacement,
    moments: Moments | None = None,
) -> Pairs:
    """Weight and bias of every convolution of the chain that best replaces ``module``.

    The rule's first kernels are improved by alternating least squares (`refined`), under the covariance of
    the layer's patches where there are moments, as in X. Zhang, J. Zou, K. He and J. Sun, "Accelerating Very
    Deep Convolutional Networks for Classification and Detection" (IEEE TPAMI 2016). Then every middle channel
    is scaled to equal norms of its weights on both sides (`evened`). The last bias is the layer's own, plus
    the mean error of the output where there are moments; biases before an activation function make it pass
    everything (`biases`).

    Args:
        module: with ``weight``, ``bias`` and ``groups`` as PyTorch's convolutions have them.
        moments: mean and covariance of the patches of the layer's input; None fits the kernel alone.

    Returns:
        ``(weight, bias)`` of each convolution in order, in float64, on the CPU.

    Raises:
        RewriteError: the chain has steps other than convolutions and activation functions of `PASSING`; the
            rule's kernels have other shapes than its chain; or it mixes transposed and ordinary layers.
    """
    specs, behind = _stages(replacement)
    moments = None if specs_transposed(specs) else moments
    target, kernels = _factors(rule, module, replacement, specs, moments)
    kernels = evened(kernels, specs)
    bias = _bias_of(module)
    if moments is not None and specs[-1].bias:
        lost = target - _composed(kernels, specs, target)
        drift = (lost.flatten(2) @ moments.mean[:, :, None]).flatten()
        bias = drift if bias is None else bias + drift
    found = biases(kernels, specs, behind, bias, replacement.name, moments)
    return list(zip(kernels, found, strict=True))


def errors_of_factors(
    rule: Factors,
    module: nn.Module,
    replacement: Replacement,
    moments: Moments | None = None,
    unfolded: Unfolded | None = None,
) -> tuple[float, float | None]:
    """Upper bounds of the errors of `factored`: `kernel_error` and, with moments, `predicted_error`.

    Without moments they come from singular values where the rule has them (`Factorisation.lost`); else from
    a few sweeps of `refined` or, where a sweep takes long, from the rule's first kernels, for large kernels
    in float32. The further sweeps of `factored` never increase the error.

    Args:
        unfolded: the module's kernel (`unfolded_of`), to share its factorisations.

    Returns:
        The relative errors of the kernel and of the output, None where it is not known.
    """
    specs, _ = _stages(replacement)
    moments = None if specs_transposed(specs) else moments
    looked_at = unfolded or unfolded_of(module)
    if not isfinite(looked_at.total):
        return nan, None
    if moments is None:
        lost = rule.lost(looked_at, replacement)
        error = None if lost is None else looked_at.error(lost)
        if error is not None:
            return error, None
    target, kernels = _factors(rule, module, replacement, specs, moments, quick=True)
    whole = _composed(kernels, specs, target)
    return kernel_error(target, whole), None if moments is None else predicted_error(target, whole, moments)


def unfolded_of(module: nn.Module) -> Unfolded:
    """The kernel of a convolution, to be factored once for the errors of several replacements."""
    like = like_of(module)
    kernel = apart(weight_of(module).detach(), like.groups)
    return Unfolded(kernel.transpose(1, 2) if like.transposed else kernel)


def kernel_error(target: Tensor, composed: Tensor) -> float:
    """|| target - composed || / || target ||, in Frobenius norms."""
    size = float(target.norm())
    return float((target - composed).norm()) / size if size else float(composed.norm() > 0)


def predicted_error(target: Tensor, composed: Tensor, moments: Moments) -> float:
    """Relative error of the output about its mean: sqrt(tr(D C D') / tr(W C W')), D = W - composed.

    Args:
        target, composed: (groups, out / groups, in / groups, *taps), on the taps of the layer.
    """
    wide = target.flatten(2).double()
    lost = wide - composed.flatten(2).double()
    size = float(((wide @ moments.covariance) * wide).sum())
    left = max(float(((lost @ moments.covariance) * lost).sum()), 0.0)
    return (left / size) ** 0.5 if size > 0 else float(left > 0)


def _factors(
    rule: Factors,
    module: nn.Module,
    replacement: Replacement,
    specs: Sequence[ConvSpec],
    moments: Moments | None,
    quick: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """The layer's kernel with groups as its first axis, and the kernels of the chain."""
    weight, groups = _weight_of(module), like_of(module).groups
    target = apart(weight, groups)
    target = target.to(working_dtype(weight_of(module), moments is not None))
    kernels = [kernel.to(target.dtype) for kernel in rule.factors(target, replacement, moments)]
    for kernel, spec in zip(kernels, specs, strict=True):
        first, second = spec.out_channels, spec.in_channels
        if spec.transposed:
            first, second = second, first
        wanted = (first, second // spec.groups, *spec.kernel_size)
        if tuple(kernel.shape) != wanted:
            raise RewriteError(
                f"{rule.name}: factors() gave a kernel of shape {tuple(kernel.shape)} for a weight of "
                f"{wanted}"
            )
    given = None if moments is None else (moments.covariance if specs[-1].bias else moments.second)
    turned, flat = _adjoint(kernels, specs)
    if not quick:
        turned = refined(turned, flat, target, groups, covariance=given)
    elif work_of(turned, target, given) <= _QUICK:
        turned = refined(turned, flat, target, groups, covariance=given, sweeps=_QUICK_SWEEPS)
        turned = [kernel.to(target.dtype) for kernel in turned]
    return target, _adjoint(turned, specs[::-1])[0]


def _composed(kernels: Sequence[Tensor], specs: Sequence[ConvSpec], target: Tensor) -> Tensor:
    turned, flat = _adjoint(kernels, specs)
    return on_taps(turned, flat, target.shape[3:], len(target))


def _adjoint(kernels: Sequence[Tensor], specs: Sequence[ConvSpec]) -> tuple[list[Tensor], list[ConvSpec]]:
    """A chain of transposed layers as the chain of the ordinary layers that they transpose, in reverse order.

    Pointwise layers between them transpose to pointwise layers; applied twice it gives back the kernels.
    """
    if not specs_transposed(specs):
        return list(kernels), list(specs)
    turned, flat = [], []
    for kernel, spec in zip(kernels, specs, strict=True):
        if not spec.transposed and max((*spec.kernel_size, *spec.stride)) > 1:
            raise RewriteError(_TRANSPOSED)
        turned.append(kernel if spec.transposed else _swapped(kernel, spec.groups))
        flat.append(
            replace(
                spec,
                in_channels=spec.out_channels,
                out_channels=spec.in_channels,
                transposed=False,
                output_padding=0,
                padding=0,
                input_size=spec.extent,
            )
        )
    return turned[::-1], flat[::-1]


def specs_transposed(specs: Sequence[ConvSpec]) -> bool:
    """Whether one of the convolutions is transposed."""
    return any(spec.transposed for spec in specs)


def _swapped(weight: Tensor, groups: int) -> Tensor:
    return apart(weight, groups).transpose(1, 2).flatten(0, 1)


def _stages(replacement: Replacement) -> tuple[list[ConvSpec], list[str | None]]:
    """The convolutions of the chain, and for each the activation function behind it or None."""
    specs: list[ConvSpec] = []
    behind: list[str | None] = []
    for step in replacement.chain:
        if isinstance(step, Conv):
            specs.append(step.spec)
            behind.append(None)
        elif isinstance(step, Activation) and behind:
            if behind[-1] is not None:
                raise RewriteError(f"{replacement.name}: the chain has two activation functions in a row")
            behind[-1] = step.kind
        else:
            raise RewriteError(
                f"{replacement.name}: a factorisation's chain has convolutions and activation functions "
                f"only, not {step!r}"
            )
    if not specs or behind[-1] is not None:
        raise RewriteError(f"{replacement.name}: the chain does not end in a convolution")
    return specs, behind


def _weight_of(module: nn.Module) -> Tensor:
    return weight_of(module).detach().to("cpu", torch.float64)


def _bias_of(module: nn.Module) -> Tensor | None:
    bias = module.bias
    return bias.detach().to("cpu", torch.float64) if isinstance(bias, Tensor) else None
