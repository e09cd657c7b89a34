"""How far a path's outputs are from the exact ones."""

from __future__ import annotations

import torch

from archcost.paths.native import NativePath
from archcost.paths.path import ExecutionPath
from archcost.paths.registry import get
from archcost.spec import ConvSpec

__all__ = ["relative_error"]


def relative_error(
    path: str | ExecutionPath,
    x: torch.Tensor,
    weight: torch.Tensor,
    spec: ConvSpec,
    bias: torch.Tensor | None = None,
) -> float:
    """max |y - exact| / max |exact| of one convolution; exact is PyTorch's own in float64.

    0 where both are 0 throughout, infinity where only the exact outputs are, or where a path gives NaN.

    Raises:
        InputError: the path does not support the convolution, or the tensors do not fit it.
        SpecError: no path has that name.
    """
    path = get(path) if isinstance(path, str) else path
    native = NativePath()
    with torch.no_grad():
        wide = None if bias is None else bias.double()
        exact = native.run(x.double(), native.prepare(weight.double(), wide, spec))
        y = path.run(x, path.prepare(weight, bias, spec))
        worst, largest = (y.double() - exact).abs().max().item(), exact.abs().max().item()
    if worst == 0:
        return 0.0
    return worst / largest if largest and worst == worst else float("inf")
