"""The numerical error of a path's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from archcost.paths.algorithms.framework import framework_convolution
from archcost.paths.path import ExecutionPath
from archcost.paths.registry import get
from archcost.spec import ConvSpec

__all__ = ["error_against", "exact_convolution", "relative_error"]


def relative_error(
    path: str | ExecutionPath, x: Tensor, weight: Tensor, spec: ConvSpec, bias: Tensor | None = None
) -> float:
    """max |y - exact| / max |exact| of a convolution; exact is PyTorch's own in float64.

    0 where both are 0 throughout; infinity where only the exact outputs are, or where the path gives NaN.

    Args:
        path: its name, or an `ExecutionPath`.
        x: (batch, in_channels, *input_size).
        weight: as ``torch.nn.ConvNd`` has it.
        spec: the convolution.
        bias: (out_channels,).

    Raises:
        InputError: the path does not support the convolution, or the tensors do not fit it.
        SpecError: no path has that name.
    """
    path = get(path) if isinstance(path, str) else path
    with torch.no_grad():
        y = path.run(x, path.prepare(weight, bias, spec))
    return error_against(y, exact_convolution(x, weight, spec, bias))


def exact_convolution(x: Tensor, weight: Tensor, spec: ConvSpec, bias: Tensor | None = None) -> Tensor:
    """The convolution by PyTorch in float64."""
    with torch.no_grad():
        wide = None if bias is None else bias.double()
        return framework_convolution(x.double(), weight.double(), wide, spec)


def error_against(y: Tensor, exact: Tensor) -> float:
    """max |y - exact| / max |exact|, as `relative_error` says."""
    if exact.numel() == 0:
        return 0.0
    worst, largest = (y.double() - exact).abs().max().item(), exact.abs().max().item()
    if worst == 0:
        return 0.0
    return worst / largest if largest and worst == worst else float("inf")
