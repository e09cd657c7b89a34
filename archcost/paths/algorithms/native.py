"""The framework's own convolution: as a model calls it, and in the channels-last layout."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from archcost.paths.algorithms.framework import framework_convolution, in_two_axes
from archcost.paths.epilogue import PLAIN, Epilogue
from archcost.paths.geometry import refusal
from archcost.paths.path import ExecutionPath, Implementation, Prepared
from archcost.paths.precision import roundoff, sum_error
from archcost.spec import ConvSpec

__all__ = ["ChannelsLastPath", "NativePath"]

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class NativePath(ExecutionPath):
    """``torch.nn.functional.conv*``, which takes whatever algorithm the framework chooses."""

    name = "native"
    idea = "PyTorch's own convolution as a model calls it, by the algorithm that PyTorch chooses"
    limits = "everything that PyTorch can, and padding that differs by side"
    source = "torch.nn.functional"

    def supports(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> str | None:
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            return f"{str(dtype).removeprefix('torch.')} is no floating-point type"
        return refusal(spec)

    def prepare(
        self, weight: Tensor, bias: Tensor | None, spec: ConvSpec, epilogue: Epilogue = PLAIN
    ) -> Prepared:
        self.check_weights(weight, bias, spec, epilogue)
        return Prepared(spec, weight, bias, weight.dtype, epilogue)

    def run(self, x: Tensor, prepared: Prepared) -> Tensor:
        self.check_input(x, prepared)
        y = framework_convolution(x, prepared.content, prepared.bias, prepared.spec)
        return prepared.epilogue.applied(y)

    def implementation(
        self, spec: ConvSpec, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> Implementation:
        return "PyTorch"

    def multiplications(self, spec: ConvSpec) -> int:
        """The definition's, ``spec.macs``: PyTorch does not tell which algorithm it takes."""
        return spec.macs

    def workspace_bytes(self, spec: ConvSpec, itemsize: int = 4) -> int | None:
        """None: PyTorch does not tell what it allocates inside."""
        return None

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        """Half types may be rounded after each of several partial sums, and once more for the bias."""
        extra = 0.0 if dtype in (torch.float32, torch.float64) else 3 * roundoff(dtype)
        return sum_error(spec, dtype) + extra


class ChannelsLastPath(NativePath):
    """The same call, weights and input in the layout (batch, *spatial, channels) in memory.

    The input is copied into it where it comes in another; the output stays in it.
    """

    name = "native-channels-last"
    idea = "the same in channels_last, the input copied where it comes in another layout"

    def prepare(
        self, weight: Tensor, bias: Tensor | None, spec: ConvSpec, epilogue: Epilogue = PLAIN
    ) -> Prepared:
        prepared = super().prepare(weight, bias, spec, epilogue)
        return replace(prepared, content=channels_last(weight))

    def run(self, x: Tensor, prepared: Prepared) -> Tensor:
        self.check_input(x, prepared)
        # A convolution of one axis has no such layout: it is run as the second axis of two.
        spec = in_two_axes(prepared.spec) if x.dim() == 3 else prepared.spec
        y = framework_convolution(channels_last(x), prepared.content, prepared.bias, spec)
        return prepared.epilogue.applied(y.squeeze(2) if x.dim() == 3 else y)


def channels_last(tensor: Tensor) -> Tensor:
    """In the channels-last layout of its dimensions; of three, as four with one row."""
    if tensor.dim() == 3:
        tensor = tensor.unsqueeze(2)
    return tensor.contiguous(memory_format=_CHANNELS_LAST[tensor.dim() - 2])


PATHS = (NativePath(), ChannelsLastPath())
ORDER = 10
