"""oneDNN with its weights packed once, as ``torch.compile`` does when it freezes a model."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from archcost.errors import InputError
from archcost.paths.algorithms.framework import (
    in_two_axes,
    needs_gradients,
    takes_padding,
    wants_gradients,
    with_gradients,
)
from archcost.paths.algorithms.native import NativePath
from archcost.paths.epilogue import PLAIN, Epilogue
from archcost.paths.geometry import padded
from archcost.paths.path import Prepared
from archcost.spec import ConvSpec

__all__ = ["PrepackedPath"]


class PrepackedPath(NativePath):
    """oneDNN's blocked weights, reordered once in place of at every call.

    oneDNN can clamp as it writes, but turns NaN into a limit: an epilogue that keeps NaN
    is applied afterwards.
    """

    name = "native-prepacked"
    idea = "oneDNN with its weights reordered once, in place of at every call"
    limits = "float32 and the half types on a CPU with oneDNN (mkldnn); not transposed"
    source = "torch.ops.mkldnn, what torch.compile's freezing uses"

    def supports(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> str | None:
        if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
            return "this build of PyTorch has no pre-packed convolutions"
        if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
            return "oneDNN (mkldnn) is not available here, or switched off"
        if spec.transposed:
            return "oneDNN cannot pre-pack every transposed convolution"
        if spec.output_size[-1] == 1 and spec.stride[-1] > 1:
            return "oneDNN reads beyond the input where a stride leaves one output in a row"
        if any(e > n for e, n in zip(spec.extent, spec.input_size, strict=True)):
            return "oneDNN reads beyond the input where the kernel is larger than it"
        if dtype is not None and dtype not in (torch.float32, *_half_types()):
            return f"oneDNN has no {str(dtype).removeprefix('torch.')} convolution on this machine"
        return super().supports(spec, dtype)

    def prepare(
        self, weight: Tensor, bias: Tensor | None, spec: ConvSpec, epilogue: Epilogue = PLAIN
    ) -> Prepared:
        self.check_weights(weight, bias, spec, epilogue)
        if weight.device.type != "cpu":
            raise InputError(f"path {self.name!r}: oneDNN runs on the CPU, not on {weight.device}")
        flat = in_two_axes(spec) if spec.axes == 1 else spec
        planes = weight.detach().unsqueeze(2) if spec.axes == 1 else weight.detach()
        size = [spec.batch, spec.in_channels, *flat.input_size]
        if takes_padding(flat):
            padding = [low for low, _ in flat.padding]
        else:
            padding = [0] * flat.axes
            size[2:] = [n + sum(pair) for n, pair in zip(size[2:], flat.padding, strict=True)]
        options = [list(flat.stride), list(flat.dilation), flat.groups]
        packed = torch.ops.mkldnn._reorder_convolution_weight(planes.contiguous(), padding, *options, size)
        activation, scalars = _activation(epilogue)
        rest = epilogue if activation == "none" else replace(epilogue, clamp=None)
        pads = None if takes_padding(flat) else flat
        content = (packed, pads, [padding, *options, activation, scalars, ""], rest)
        trains = wants_gradients(weight, bias)
        return Prepared(spec, content, bias, weight.dtype, epilogue, weight, trains)

    def run(self, x: Tensor, prepared: Prepared) -> Tensor:
        self.check_input(x, prepared)
        if needs_gradients(x, prepared):
            return with_gradients(x, prepared)
        # A small layer takes less time than a few calls of PyTorch that do nothing.
        packed, pads, options, rest = prepared.content
        planes = x.detach() if x.requires_grad else x
        planes = planes.unsqueeze(2) if x.dim() == 3 else planes
        if pads is not None:
            planes = padded(planes, pads)
        bias = prepared.bias
        bias = bias.detach() if bias is not None and bias.requires_grad else bias
        y: Tensor = torch.ops.mkldnn._convolution_pointwise.default(planes, packed, bias, *options)
        end: Epilogue = rest
        return end.applied(y.squeeze(2) if x.dim() == 3 else y)


def _activation(epilogue: Epilogue) -> tuple[str, list[float]]:
    """oneDNN's name for the clamp, and its parameters."""
    if epilogue.clamp is None or epilogue.keeps_nan:
        return "none", []
    return ("relu", []) if epilogue.clamp == (0, inf) else ("hardtanh", list(epilogue.clamp))


def _half_types() -> list[torch.dtype]:
    """The half types that oneDNN computes with on this processor."""
    known = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return [dtype for dtype, asks in known.items() if getattr(torch.ops.mkldnn, asks)()]


PATHS = (PrepackedPath(),)
ORDER = 20
