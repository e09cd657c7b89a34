"""Which paths may execute a layer: those that support it and, with its own weights, are exact enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from archcost.errors import ArchcostError
from archcost.paths.accuracy import error_against, exact_convolution
from archcost.paths.path import ExecutionPath
from archcost.paths.registry import available, get
from archcost.spec import ConvSpec

__all__ = ["Eligibility", "eligible", "tried"]


@dataclass(frozen=True)
class Eligibility:
    """What became of one path: refused, or run once."""

    path: str
    tolerance: float
    error: float | None = None
    """As `relative_error` has it; None where the path refused or failed."""
    refusal: str | None = None

    @property
    def eligible(self) -> bool:
        return self.error is not None and self.error <= self.tolerance

    @property
    def reason(self) -> str | None:
        """Why it is not eligible, in one line; None where it is."""
        if self.eligible or self.error is None:
            return self.refusal
        return f"its error of {self.error:.1e} is above the tolerance of {self.tolerance:.0e}"


def eligible(
    spec: ConvSpec,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    x: torch.Tensor | None = None,
    *,
    tolerance: float = 1e-4,
    paths: Iterable[str | ExecutionPath] | None = None,
) -> dict[str, Eligibility]:
    """Every path by its name, in their order, run once with these weights and compared with float64.

    Args:
        x: an input; of a batch the first image is taken. Normal noise where none is given.
        tolerance: the largest max |y - exact| / max |exact| that is good enough.
        paths: names or paths; all of them where none are given.

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
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    spec: ConvSpec,
    exact: torch.Tensor,
    tolerance: float,
) -> Eligibility:
    """One path run once on ``x``, and compared with its ``exact`` result."""
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
