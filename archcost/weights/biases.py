"""Biases and scales of a chain: activation functions that at first pass everything, balanced weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archcost.errors import RewriteError
from archcost.merging.compose import apart, composed
from archcost.spec import ConvSpec
from archcost.weights.moments import Moments

__all__ = ["INPUT_RANGE", "PASSING", "biases", "evened"]

PASSING = ("CELU", "ELU", "Hardswish", "Identity", "LeakyReLU", "PReLU", "RReLU", "ReLU")
"""Activation functions of ``torch.nn`` that pass values above 0 unchanged (above 3 for Hardswish)."""

INPUT_RANGE = 10.0
"""Assumed largest magnitude of a layer's inputs without calibration data."""

_FROM = {"Hardswish": 3.0}


def evened(kernels: Sequence[Tensor], specs: Sequence[ConvSpec]) -> list[Tensor]:
    """The chain with weights of equal norm before and behind each middle channel.

    Stages then train at the same rate. Transposed stages are unchanged.
    """
    now = list(kernels)
    for _ in range(len(now) - 1):
        for stage in range(len(now) - 1):
            if specs[stage].transposed or specs[stage + 1].transposed:
                continue
            behind = apart(now[stage + 1], specs[stage + 1].groups)
            before = now[stage].flatten(1).norm(dim=1)
            after = behind.transpose(1, 2).flatten(2).norm(dim=2).flatten()
            ratio = torch.where((before > 0) & (after > 0), after / before, torch.ones_like(before)).sqrt()
            pixels = (1,) * (behind.dim() - 3)
            now[stage] = now[stage] * ratio.reshape(-1, *(1,) * (now[stage].dim() - 1))
            scaled = behind / ratio.reshape(len(behind), 1, -1, *pixels)
            now[stage + 1] = scaled.reshape(now[stage + 1].shape)
    return now


def biases(
    kernels: Sequence[Tensor],
    specs: Sequence[ConvSpec],
    behind: Sequence[str | None],
    bias: Tensor | None,
    name: str,
    moments: Moments | None = None,
) -> list[Tensor | None]:
    """Biases for every stage, with which activation functions pass everything and the chain stays linear.

    A stage with an activation function behind it is shifted by c, so that its values are positive for all
    inputs in the range of the data (of each channel, from ``moments``; within `INPUT_RANGE` of zero without).
    The next stage's weights times c are subtracted from its bias. That is exact at the border where only the
    first stage is padded.

    Args:
        behind: the activation function behind each stage, or None.
        bias: the bias of the replaced layer, for the last stage.
        name: the layer's name, for messages.

    Returns:
        The bias of each stage; None for a stage without bias.

    Raises:
        RewriteError: an activation function is not in `PASSING`, or a stage needs a bias and has none.
    """
    made: list[Tensor | None] = []
    shift = kernels[0].new_zeros(specs[0].in_channels)
    for stage, (kernel, spec, kind) in enumerate(zip(kernels, specs, behind, strict=True)):
        brought = _constant(kernel, spec, shift) if shift.any() else None
        if stage == len(kernels) - 1:
            wanted = bias if bias is not None else kernel.new_zeros(spec.out_channels)
        elif kind is None:
            wanted = brought if brought is not None else kernel.new_zeros(spec.out_channels)
        elif kind not in PASSING:
            raise RewriteError(
                f"{name}: a chain with {kind} cannot start as a linear chain; choose one of "
                f"{', '.join(PASSING)}"
            )
        elif kind == "Identity":
            wanted = kernel.new_zeros(spec.out_channels)
        else:
            wanted = _reach(kernels[: stage + 1], specs[: stage + 1], moments) + _FROM.get(kind, 0.0)
        own = wanted if brought is None else wanted - brought
        needed = bool(own.any())
        if needed and not spec.bias:
            raise RewriteError(f"{name}: stage {stage + 1} of its chain needs a bias")
        made.append(own if spec.bias else None)
        shift = wanted
    return made


def _constant(kernel: Tensor, spec: ConvSpec, shift: Tensor) -> Tensor:
    """The output of a stage for an input that is constant in space."""
    if spec.transposed:
        raise RewriteError("a chain of transposed layers with activation functions has no initial weights")
    sums = apart(kernel, spec.groups).flatten(3).sum(3)  # (groups, o, i)
    return (sums @ shift.reshape(spec.groups, -1, 1)).flatten()


def _reach(kernels: Sequence[Tensor], specs: Sequence[ConvSpec], moments: Moments | None) -> Tensor:
    """Largest magnitude of negative outputs of a stage without bias, for each output channel."""
    outer = 1 if moments is None or moments.low is None else len(moments.low)
    total = composed(kernels, specs, outer).flatten(3)  # (G, m, i, pixels)
    if moments is None or moments.low is None or moments.high is None:
        return INPUT_RANGE * total.abs().sum((2, 3)).flatten()
    low, high = moments.low[:, None, :], moments.high[:, None, :]
    least = (total.clamp_min(0).sum(3) * low + total.clamp_max(0).sum(3) * high).sum(2)
    return (-least).clamp_min(0).flatten() * (1 + 1e-3)
