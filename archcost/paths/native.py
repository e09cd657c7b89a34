"""The framework's own convolution: as a model calls it, in the channels-last layout, and pre-packed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from archcost.errors import InputError
from archcost.paths.geometry import axes_of, cropped, padded, padding_of, refusal, spatial
from archcost.paths.path import ExecutionPath, Prepared
from archcost.paths.precision import roundoff, sum_error
from archcost.paths.tensor import check_input, check_weights
from archcost.spec import ConvSpec

__all__ = ["ChannelsLastPath", "NativePath", "PrepackedPath"]

_CONVOLUTIONS: dict[bool, dict[int, Any]] = {
    False: {1: F.conv1d, 2: F.conv2d, 3: F.conv3d},
    True: {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d},
}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class NativePath(ExecutionPath):
    """``torch.nn.functional.conv*``, which takes whatever algorithm the framework chooses."""

    name = "native"
    idea = "torch.nn.functional.conv* as a model calls it, by the algorithm that PyTorch chooses"
    limits = "everything that PyTorch can, and padding that differs by side"
    source = "torch.nn.functional"

    def supports(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> str | None:
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            return f"{str(dtype).removeprefix('torch.')} is no floating-point type"
        return refusal(spec)

    def prepare(self, weight: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec) -> Prepared:
        check_weights(self, weight, bias, spec)
        return Prepared(spec, weight, bias, weight.dtype)

    def run(self, x: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        check_input(self, x, prepared)
        spec = prepared.spec
        function = _CONVOLUTIONS[spec.transposed][axes_of(spec)]
        options: dict[str, Any] = {
            "stride": spatial(spec, "stride"),
            "dilation": spatial(spec, "dilation"),
            "groups": spec.groups,
        }
        if takes_padding(spec):
            options["padding"] = tuple(low for low, _ in padding_of(spec))
            if spec.transposed:
                options["output_padding"] = spatial(spec, "output_padding")
            return function(x, prepared.content, prepared.bias, **options)
        if spec.transposed:
            # The bias comes after the cut, because output padding beyond the full size has one as well.
            y = cropped(function(x, prepared.content, **options), spec)
            return y if prepared.bias is None else y + prepared.bias.reshape(-1, *(1,) * (y.dim() - 2))
        return function(padded(x, spec), prepared.content, prepared.bias, **options)

    def multiplications(self, spec: ConvSpec) -> int:
        """Those of the definition, ``spec.macs``: which algorithm PyTorch takes, it does not say."""
        return spec.macs

    def workspace_bytes(self, spec: ConvSpec, itemsize: int = 4) -> int | None:
        """Not known: PyTorch does not say what it allocates inside."""
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
    idea = "the same in the channels-last layout, the input copied where it comes in another"

    def prepare(self, weight: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec) -> Prepared:
        check_weights(self, weight, bias, spec)
        return Prepared(spec, channels_last(weight), bias, weight.dtype)

    def run(self, x: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        if x.dim() != 3:
            return super().run(channels_last(x), prepared)
        # One axis has no such layout of its own: it is run as the second of two.
        check_input(self, x, prepared)
        flat = Prepared(in_two_axes(prepared.spec), prepared.content, prepared.bias, prepared.dtype)
        return super().run(channels_last(x), flat).squeeze(2)


class PrepackedPath(NativePath):
    """oneDNN's blocked weights, reordered once in place of at every call. For inference only."""

    name = "native-prepacked"
    idea = "oneDNN with its weights reordered once, in place of at every call"
    limits = "float32 and the half types on a CPU with oneDNN (mkldnn); not transposed, no gradients"
    source = "torch.ops.mkldnn, what torch.compile's freezing uses"

    def supports(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> str | None:
        if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
            return "this build of PyTorch has no pre-packed convolutions"
        if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
            return "oneDNN (mkldnn) is not available here, or switched off"
        if spec.transposed:
            return "oneDNN cannot pre-pack every transposed convolution"
        if spec.output_size[-1] == 1 and spatial(spec, "stride")[-1] > 1:
            return "oneDNN reads beyond the input where a stride leaves one output in a row"
        if any(e > n for e, n in zip(spec.extent, spatial(spec, "input_size"), strict=True)):
            return "oneDNN reads beyond the input where the kernel is larger than it"
        if dtype is not None and dtype not in (torch.float32, *_half_types()):
            return f"oneDNN has no {str(dtype).removeprefix('torch.')} convolution on this machine"
        return super().supports(spec, dtype)

    def prepare(self, weight: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec) -> Prepared:
        check_weights(self, weight, bias, spec)
        if weight.device.type != "cpu":
            raise InputError(f"path {self.name!r}: oneDNN runs on the CPU, not on {weight.device}")
        self._check_gradients("weights", weight)
        flat = in_two_axes(spec) if axes_of(spec) == 1 else spec
        weight = weight.detach().unsqueeze(2) if axes_of(spec) == 1 else weight.detach()
        size = [spec.batch, spec.in_channels, *spatial(flat, "input_size")]
        if takes_padding(flat):
            padding = [low for low, _ in padding_of(flat)]
        else:
            padding = [0] * axes_of(flat)
            size[2:] = [n + sum(pair) for n, pair in zip(size[2:], padding_of(flat), strict=True)]
        options = [list(spatial(flat, "stride")), list(spatial(flat, "dilation")), flat.groups]
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), padding, *options, size)
        return Prepared(spec, (packed, flat, [padding, *options]), bias, weight.dtype)

    def run(self, x: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        check_input(self, x, prepared)
        self._check_gradients("input", x)
        packed, flat, options = prepared.content
        one_axis = x.dim() == 3
        x = x.detach().unsqueeze(2) if one_axis else x.detach()
        if not takes_padding(flat):
            x = padded(x, flat)
        y = torch.ops.mkldnn._convolution_pointwise(x, packed, prepared.bias, *options, "none", [], "")
        return y.squeeze(2) if one_axis else y

    def _check_gradients(self, what: str, tensor: torch.Tensor) -> None:
        if tensor.requires_grad and torch.is_grad_enabled():
            raise InputError(
                f"path {self.name!r} computes no gradients: detach the {what}, or use torch.no_grad()"
            )


def takes_padding(spec: ConvSpec) -> bool:
    """Whether the framework pads by itself: with zeros, as many on both sides, and no more of the output
    padding than it allows."""
    if spec.padding_mode != "zeros" or any(low != high for low, high in padding_of(spec)):
        return False
    columns = (spatial(spec, "output_padding"), spatial(spec, "stride"), spatial(spec, "dilation"))
    return not spec.transposed or all(o < max(s, d) for o, s, d in zip(*columns, strict=True))


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """In the channels-last layout of its dimensions; of three, as four with one row."""
    if tensor.dim() == 3:
        tensor = tensor.unsqueeze(2)
    return tensor.contiguous(memory_format=_CHANNELS_LAST[tensor.dim() - 2])


def in_two_axes(spec: ConvSpec) -> ConvSpec:
    """A convolution of one axis as one of two, over a single row."""
    from dataclasses import replace

    return replace(
        spec,
        kernel_size=(1, *spatial(spec, "kernel_size")),
        stride=(1, *spatial(spec, "stride")),
        padding=((0, 0), *padding_of(spec)),
        dilation=(1, *spatial(spec, "dilation")),
        output_padding=(0, *spatial(spec, "output_padding")),
        input_size=(1, *spatial(spec, "input_size")),
    )


def _half_types() -> list[torch.dtype]:
    """Those of the half types that oneDNN computes with on this processor."""
    known = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return [dtype for dtype, asks in known.items() if getattr(torch.ops.mkldnn, asks)()]


PATHS = (NativePath(), ChannelsLastPath(), PrepackedPath())
