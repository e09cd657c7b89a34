"""The definition: every tap of the kernel, times the pixels that it meets, added up.

    y[n, o, p] = sum over channels c and taps k of  weight[o, c, k] * x[n, c, p * stride + k * dilation]

A transposed convolution runs the same sum backwards: each input pixel is spread over the outputs that lie
under the kernel.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from archcost.kernels import library
from archcost.kernels.blocked import BlockedConvolution
from archcost.paths.algorithms.tensor import Fused, WholePath, device_of, kernels_run
from archcost.paths.compiled import Kernel, depthwise_kernel, on_blocks, packed_direct
from archcost.paths.geometry import by_groups, cropped, full_size, padded, padded_elements, tap_windows
from archcost.paths.path import Prepared
from archcost.paths.precision import compute_dtype, sum_error
from archcost.spec import ConvSpec

__all__ = ["DirectPath"]


class DirectPath(WholePath):
    """A sum over taps, each one a product of all channels at all positions at once.

    Depthwise there is nothing to multiply matrices for: a compiled kernel sums in registers. Blocked tensors
    have kernels for all of it.
    """

    name = "direct"
    idea = "the definition, a sum over the taps of the kernel"
    limits = "everything: 1 to 3 axes, groups, stride, dilation, transposed, every padding mode"
    source = "V. Dumoulin and F. Visin, A guide to convolution arithmetic for deep learning, 2016"

    def compiled_for(self) -> str:
        return "depthwise, as many filters as channels, 1 and 2 axes; not transposed" if library() else ""

    def _kernel(self, spec: ConvSpec) -> Kernel | None:
        return depthwise_kernel(spec)

    def on_blocks(self, prepared: Prepared) -> BlockedConvolution | None:
        content = prepared.content
        if not self.reads_blocks(prepared.spec, prepared.dtype):
            return None
        if isinstance(content, Fused):
            return on_blocks(content.packed, prepared)
        return (
            on_blocks(packed_direct(content, prepared.spec), prepared)
            if device_of(content) == "cpu"
            else None
        )

    def reads_blocks(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> bool:
        plain = not spec.transposed and spec.axes < 3 and spec.padding_mode == "zeros"
        return plain and dtype in (None, torch.float32) and kernels_run(torch.float32, "cpu")

    def _tensors(self, weight: Tensor, spec: ConvSpec) -> Tensor:
        return by_groups(weight.to(compute_dtype(weight.dtype)), spec)

    def _run(self, x: Tensor, weight: Tensor, spec: ConvSpec) -> Tensor:
        if spec.transposed:
            y = x.new_zeros(x.shape[0], spec.out_channels, *full_size(spec))
            for tap, window in tap_windows(spec):
                y[window] += mix_channels(weight[tap], x)
            return cropped(y, spec)

        x = padded(x, spec)
        y = x.new_zeros(x.shape[0], spec.out_channels, *spec.output_size)
        for tap, window in tap_windows(spec):
            y += mix_channels(weight[tap], x[window])
        return y

    def multiplications(self, spec: ConvSpec) -> int:
        """Every weight at every position: ``spec.macs``."""
        return spec.macs

    def _elements(self, spec: ConvSpec, itemsize: int) -> int:
        """The padded input, the pixels that meet one tap, and their product, one at a time."""
        positions = prod(spec.input_size if spec.transposed else spec.output_size)
        one_tap = spec.batch * (spec.in_channels + spec.out_channels) * positions
        full = spec.batch * spec.out_channels * prod(full_size(spec)) if spec.transposed else 0
        return padded_elements(spec) + one_tap + full

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        return sum_error(spec, dtype)


def mix_channels(weight: Tensor, x: Tensor) -> Tensor:
    """The products of a tap: (groups, out, in) by (batch, groups * in, *positions), as a matrix product."""
    groups, _, inputs = weight.shape
    pixels = x.reshape(x.shape[0], groups, inputs, -1)
    return (weight @ pixels).reshape(x.shape[0], -1, *x.shape[2:])


PATHS = (DirectPath(),)
ORDER = 40
