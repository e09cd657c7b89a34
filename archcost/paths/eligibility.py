"""The paths that may execute a layer: they support it and keep the tolerance with its own weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archcost.errors import ArchcostError
from archcost.paths.accuracy import error_against, exact_convolution
from archcost.paths.path import ExecutionPath
from archcost.paths.registry import available, get
from archcost.spec import ConvSpec

__all__ = ["Eligibility", "eligible", "tried"]


@dataclass(frozen=True)
class Eligibility:
    """The outcome for a path: refused, or run once and compared with float64."""

    path: str
    tolerance: float
    error: float | None = None
    """The error by `relative_error`; None where the path refused or failed."""
    refusal: str | None = None
    """Why the path refused or failed."""

    @property
    def eligible(self) -> bool:
        """Whether the path ran with an error within the tolerance."""
        return self.error is not None and self.error <= self.tolerance

    @property
    def reason(self) -> str | None:
        """Why the path is not eligible, in one line; None where it is."""
        if self.eligible or self.error is None:
            return self.refusal
        return f"its error of {self.error:.1e} is above the tolerance of {self.tolerance:.0e}"


def eligible(
    spec: ConvSpec,
    weight: Tensor,
    bias: Tensor | None = None,
    x: Tensor | None = None,
    *,
    tolerance: float = 1e-4,
    paths: Iterable[str | ExecutionPath] | None = None,
) -> dict[str, Eligibility]:
    """Run every path once with these weights, and compare it with float64.

    Args:
        spec: the convolution.
        weight: as ``torch.nn.ConvNd`` has it.
        bias: (out_channels,).
        x: (batch, in_channels, *input_size), of which the first image is used; by default normal noise.
        tolerance: the largest max |y - exact| / max |exact| allowed.
        paths: names or paths; by default all.

    Returns:
        The outcome of each path by its name, in the order of ``paths``.

    Raises:
        InputError: the tensors do not fit the convolution.
        SpecError: no path has that name.
    """
    spec = replace(spec, batch=1)
    if x is None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, spec.in_channels, *spec.input_size, generator=generator)
    x = x[:1].detach().to(weight.device, weight.dtype)
    get("direct").prepare(weight, bias, spec)  # tensors that do not fit are no path's fault
    exact = exact_convolution(x, weight, spec, bias)
    chosen = [get(one) if isinstance(one, str) else one for one in paths or available()]
    return {path.name: tried(path, x, weight, bias, spec, exact, tolerance) for path in chosen}


def tried(
    path: ExecutionPath,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    spec: ConvSpec,
    exact: Tensor,
    tolerance: float,
) -> Eligibility:
    """The outcome of a path that is run once on ``x`` and compared with the ``exact`` output."""
    refusal = path.supports(spec, weight.dtype)
    if refusal is None:
        try:
            with torch.no_grad():
                y = path.run(x, path.prepare(weight, bias, spec))
        except (
            ArchcostError,
            RuntimeError,
        ) as error:  # PyTorch's own paths may fail where they said they would not
            refusal = f"it failed: {error}"
        else:
            return Eligibility(path.name, tolerance, error=error_against(y, exact))
    return Eligibility(path.name, tolerance, refusal=refusal)
