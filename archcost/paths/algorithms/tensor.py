"""TensorPath: tensor operations, or one call of a compiled kernel with bias and epilogue included."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from archcost.kernels import library
from archcost.kernels.operators import convolve
from archcost.paths.algorithms.framework import needs_gradients, wants_gradients, with_gradients
from archcost.paths.algorithms.space_to_depth import blocks_of
from archcost.paths.compiled import Kernel, PackedWeights
from archcost.paths.epilogue import PLAIN, Epilogue
from archcost.paths.geometry import by_groups, padded, padded_elements, refusal
from archcost.paths.path import ExecutionPath, Implementation, Prepared
from archcost.paths.precision import FLOATS, compute_dtype
from archcost.spec import ConvSpec

__all__ = ["Fused", "TensorPath", "WholePath", "device_of", "kernels_run"]

W = TypeVar("W")


@dataclass(frozen=True)
class Fused:
    """A fused block: a convolution with padding, bias and epilogue in a single call of a kernel."""

    packed: PackedWeights
    padding: tuple[tuple[int, int], ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    blocks: bool = False
    """Whether the convolution is executed by `archcost.paths.algorithms.space_to_depth`."""

    def source(self, x: Tensor, spec: ConvSpec) -> Tensor:
        """The tensor that the kernel reads."""
        if self.blocks:
            return blocks_of(x, spec)
        return x if spec.padding_mode == "zeros" else padded(x, spec)


class TensorPath(ExecutionPath, Generic[W]):
    """A path that computes in the inputs' dtype, in float32 for the half types; bias and epilogue come last.

    Its tensor operations are differentiable. Compiled kernels, chosen once in `prepare`, compute in float32.
    """

    def supports(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> str | None:
        if dtype is not None and dtype not in FLOATS:
            names = ", ".join(str(known).removeprefix("torch.") for known in FLOATS)
            return f"{str(dtype).removeprefix('torch.')} is none of {names}"
        return refusal(spec) or self._refuses(spec)

    def prepare(
        self, weight: Tensor, bias: Tensor | None, spec: ConvSpec, epilogue: Epilogue = PLAIN
    ) -> Prepared:
        self.check_weights(weight, bias, spec, epilogue)
        content = self._prepare(weight, spec)
        added = None if bias is None else bias.to(compute_dtype(weight.dtype))
        prepared = Prepared(spec, content, added, weight.dtype, epilogue)
        if not self._is_packed(content):
            return prepared
        return replace(prepared, weight=weight, trains=wants_gradients(weight, bias))

    def run(self, x: Tensor, prepared: Prepared) -> Tensor:
        self.check_input(x, prepared)
        if prepared.weight is not None and needs_gradients(x, prepared):
            return with_gradients(x, prepared)
        content, spec, end = prepared.content, prepared.spec, prepared.epilogue
        if not isinstance(content, Fused):
            y = self._run(x.to(compute_dtype(x.dtype)), content, spec)
            if prepared.bias is not None:
                y = y.add_(prepared.bias.reshape(-1, *(1,) * (y.dim() - 2)))
            return end.applied(y.to(x.dtype), x)
        # A small layer takes less time than a few calls of PyTorch that do nothing.
        source = x if x.dtype == torch.float32 else x.float()
        y = convolve(
            content.source(source, spec),
            content.packed,
            prepared.bias,
            padding=content.padding,
            stride=content.stride,
            dilation=content.dilation,
            clamp=end.clamp,
            memory_format=end.memory_format,
        )
        return y if source is x else y.to(x.dtype)

    def _refuses(self, spec: ConvSpec) -> str | None:
        """Why this path cannot execute a convolution that other paths can; None where it can."""
        return None

    @abstractmethod
    def _prepare(self, weight: Tensor, spec: ConvSpec) -> W | Fused:
        """The weights in whatever form `_run` wants, in the dtype computed in; or `Fused`."""

    @abstractmethod
    def _run(self, x: Tensor, content: W, spec: ConvSpec) -> Tensor:
        """The convolution without its bias, a new tensor."""

    def _is_packed(self, content: W | Fused) -> bool:
        """Whether some weights are packed for a kernel, so that they have no gradients."""
        return isinstance(content, Fused)


class WholePath(TensorPath[Tensor]):
    """A path with a kernel for whole convolutions, with any stride and dilation; else tensor operations."""

    def implementation(
        self, spec: ConvSpec, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> Implementation:
        return "compiled" if self._chosen(spec, dtype or torch.float32, device) else "tensor operations"

    def _chosen(self, spec: ConvSpec, dtype: torch.dtype, device: str) -> Kernel | None:
        """The compiled kernel, None where tensor operations run: all choices are made here."""
        return self._kernel(spec) if kernels_run(dtype, device) else None

    def _prepare(self, weight: Tensor, spec: ConvSpec) -> Tensor | Fused:
        kernel = self._chosen(spec, weight.dtype, device_of(weight))
        if kernel is None:
            return self._tensors(weight, spec)
        padding = spec.padding if spec.padding_mode == "zeros" else ((0, 0),) * spec.axes
        return Fused(kernel.pack(by_groups(weight, spec)), padding, spec.stride, spec.dilation)

    def workspace_bytes(self, spec: ConvSpec, itemsize: int = 4) -> int:
        """The kernel's packed weights and working memory, with the padded input of other modes than zeros."""
        kernel = self._chosen(spec, torch.float32 if itemsize == 4 else torch.float64, "cpu")
        if kernel is None:
            return itemsize * self._elements(spec, itemsize)
        written_out = 0 if spec.padding_mode == "zeros" else 4 * padded_elements(spec)
        return kernel.packed_bytes() + kernel.scratch_bytes() + written_out

    @abstractmethod
    def _kernel(self, spec: ConvSpec) -> Kernel | None:
        """The kernel for a convolution; None where there is none."""

    @abstractmethod
    def _tensors(self, weight: Tensor, spec: ConvSpec) -> Tensor:
        """The weights as tensor operations want them."""

    @abstractmethod
    def _elements(self, spec: ConvSpec, itemsize: int) -> int:
        """Elements of the buffers of the tensor operations."""


def kernels_run(dtype: torch.dtype, device: str) -> bool:
    """Whether there are compiled kernels for such tensors."""
    return device == "cpu" and compute_dtype(dtype) == torch.float32 and library() is not None


def device_of(weight: Tensor) -> str:
    """The type of a weight's device; "none" where its values cannot be read, as in tracing."""
    plain = type(weight) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()
    hidden = not plain or torch._C._functorch.peek_interpreter_stack() is not None
    return "none" if hidden else weight.device.type
