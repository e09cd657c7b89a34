"""NNPACK's convolution, where PyTorch was built with it and the processor has what it needs."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from archcost.errors import InputError
from archcost.paths.algorithms.framework import takes_padding
from archcost.paths.algorithms.native import NativePath
from archcost.paths.algorithms.toom_cook import toom_cook
from archcost.paths.epilogue import PLAIN, Epilogue
from archcost.paths.geometry import padded
from archcost.paths.path import Prepared
from archcost.paths.precision import sum_error
from archcost.spec import ConvSpec

__all__ = ["NnpackPath"]

# The points of F(6x6, 3x3), the least exact of its algorithms.
_POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2")))
_MOST_TAPS = 16


class NnpackPath(NativePath):
    """Winograd's F(6x6, 3x3), transforms of 8x8 or 16x16, or matrix products, whichever NNPACK chooses."""

    name = "native-nnpack"
    idea = "NNPACK: Winograd, FFTs of small tiles, or a matrix product, as it chooses"
    limits = f"2 axes in float32 on a CPU, at most {_MOST_TAPS} taps an axis; no groups, no dilation"
    source = "torch._nnpack_spatial_convolution; M. Dukhan, NNPACK"

    def supports(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> str | None:
        if not hasattr(torch, "_nnpack_available"):
            return "this build of PyTorch has no NNPACK"
        if not _available():
            return "NNPACK is not built in, or cannot run on this processor"
        if spec.axes != 2 or spec.transposed or spec.groups > 1 or max(spec.dilation) > 1:
            return "NNPACK has no 1-d, 3-d, grouped, dilated or transposed convolutions"
        if max(spec.kernel_size) > _MOST_TAPS:
            return f"NNPACK takes kernels of at most {_MOST_TAPS} taps an axis"
        if dtype not in (None, torch.float32):
            return f"NNPACK computes in float32, not in {str(dtype).removeprefix('torch.')}"
        return super().supports(spec, dtype)

    def prepare(
        self, weight: Tensor, bias: Tensor | None, spec: ConvSpec, epilogue: Epilogue = PLAIN
    ) -> Prepared:
        if weight.device.type != "cpu":
            raise InputError(f"path {self.name!r}: NNPACK runs on the CPU, not on {weight.device}")
        return super().prepare(weight, bias, spec, epilogue)

    def run(self, x: Tensor, prepared: Prepared) -> Tensor:
        self.check_input(x, prepared)
        spec = prepared.spec
        padding = [low for low, _ in spec.padding]
        kernel = spec.kernel_size
        # It fails where a whole kernel fits into the padding.
        if not takes_padding(spec) or any(p >= k for p, k in zip(padding, kernel, strict=True)):
            x, padding = padded(x, spec), [0, 0]
        y = torch._nnpack_spatial_convolution(x, prepared.content, prepared.bias, padding, spec.stride)
        return prepared.epilogue.applied(y)

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        """The error of F(6x6, 3x3), the least exact of its algorithms."""
        return sum_error(spec, dtype, factor=toom_cook(6, 3, _POINTS).amplification ** 2)


@lru_cache(maxsize=1)
def _available() -> bool:
    """Asked once: the question is also what makes NNPACK ready."""
    return bool(torch._nnpack_available())


PATHS = (NnpackPath(),)
ORDER = 30
