"""TensorPath: what paths made of tensor operations have in common: checks, dtypes, bias."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from archcost.errors import InputError
from archcost.paths.epilogue import PLAIN, Epilogue
from archcost.paths.geometry import refusal, weight_shape
from archcost.paths.path import ExecutionPath, Prepared
from archcost.paths.precision import FLOATS, compute_dtype
from archcost.spec import ConvSpec

__all__ = ["TensorPath"]


class TensorPath(ExecutionPath):
    """A path that computes in the inputs' dtype, in float32 for the half types; bias and epilogue come last.

    Differentiable as far as the tensor operations are that it is made of, which is everywhere.
    """

    def supports(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> str | None:
        if dtype is not None and dtype not in FLOATS:
            names = ", ".join(str(known).removeprefix("torch.") for known in FLOATS)
            return f"{str(dtype).removeprefix('torch.')} is none of {names}"
        return refusal(spec) or self._refuses(spec)

    def prepare(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        spec: ConvSpec,
        epilogue: Epilogue = PLAIN,
    ) -> Prepared:
        check_weights(self, weight, bias, spec, epilogue)
        if bias is not None:
            bias = bias.to(compute_dtype(weight.dtype))
        return Prepared(spec, self._prepare(weight, spec), bias, weight.dtype, epilogue)

    def run(self, x: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        check_input(self, x, prepared)
        y = self._run(x.to(compute_dtype(x.dtype)), prepared.content, prepared.spec)
        if prepared.bias is not None:
            y = y.add_(prepared.bias.reshape(-1, *(1,) * (y.dim() - 2)))
        return prepared.epilogue.applied(y.to(x.dtype), x)

    def _refuses(self, spec: ConvSpec) -> str | None:
        """What this path cannot do of what others can."""
        return None

    @abstractmethod
    def _prepare(self, weight: torch.Tensor, spec: ConvSpec) -> Any:
        """The weights in whatever form `_run` wants, in the dtype computed in."""

    @abstractmethod
    def _run(self, x: torch.Tensor, content: Any, spec: ConvSpec) -> torch.Tensor:
        """The convolution without its bias, a new tensor."""


def check_weights(
    path: ExecutionPath,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    spec: ConvSpec,
    epilogue: Epilogue = PLAIN,
) -> None:
    """Raises InputError where the path refuses the convolution, or tensors or epilogue do not fit it."""
    path.check(spec, weight.dtype)
    for what, tensor, shape in (("weight", weight, weight_shape(spec)), ("bias", bias, (spec.out_channels,))):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InputError(
                f"path {path.name!r}: {what} has shape {tuple(tensor.shape)}, expected {shape} for {spec}"
            )
    epilogue.check(spec.axes)


def check_input(path: ExecutionPath, x: torch.Tensor, prepared: Prepared) -> None:
    """Raises InputError where the input is not what the weights were prepared for."""
    if x.shape[1:] != prepared.input_shape:
        sizes = ", ".join(map(str, prepared.input_shape))
        raise InputError(f"path {path.name!r}: input has shape {tuple(x.shape)}, expected (batch, {sizes})")
    if x.dtype != prepared.dtype:
        raise InputError(f"path {path.name!r}: input is {x.dtype}, the weights are {prepared.dtype}")


def wants_gradients(weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether gradients are recorded now, and one of them takes part."""
    given = [tensor for tensor in (weight, bias) if tensor is not None]
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
