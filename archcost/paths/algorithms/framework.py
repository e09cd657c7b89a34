"""PyTorch's own convolution of a `ConvSpec`, with any padding and number of axes: the fallback of paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from archcost.paths.geometry import cropped, padded
from archcost.paths.path import Prepared
from archcost.spec import ConvSpec

__all__ = [
    "CONVOLUTIONS",
    "framework_convolution",
    "in_two_axes",
    "needs_gradients",
    "takes_padding",
    *("wants_gradients", "with_gradients"),
]

CONVOLUTIONS: dict[bool, dict[int, Callable[..., Tensor]]] = {
    False: {1: F.conv1d, 2: F.conv2d, 3: F.conv3d},
    True: {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d},
}


def framework_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, spec: ConvSpec) -> Tensor:
    """``torch.nn.functional.conv*``, with padding and cuts of its own where that cannot do them."""
    function = CONVOLUTIONS[spec.transposed][spec.axes]
    options: dict[str, int | tuple[int, ...]] = {
        "stride": spec.stride,
        "dilation": spec.dilation,
        "groups": spec.groups,
    }
    if takes_padding(spec):
        options["padding"] = tuple(low for low, _ in spec.padding)
        if spec.transposed:
            options["output_padding"] = spec.output_padding
        return function(x, weight, bias, **options)
    if spec.transposed:
        # The bias comes after the cut, because output padding beyond the full size has one as well.
        y = cropped(function(x, weight, **options), spec)
        return y if bias is None else y + bias.reshape(-1, *(1,) * (y.dim() - 2))
    return function(padded(x, spec), weight, bias, **options)


def needs_gradients(x: Tensor, prepared: Prepared) -> bool:
    """Whether a run must record gradients, which packed weights cannot."""
    if not torch.compiler.is_compiling() and (
        # Forward mode and torch.func have no flag on the tensors.
        forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        return True
    return torch.is_grad_enabled() and (prepared.trains or x.requires_grad)


def wants_gradients(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether gradients are recorded now, and weight or bias requires them."""
    given = [tensor for tensor in (weight, bias) if tensor is not None]
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)


def with_gradients(x: Tensor, prepared: Prepared) -> Tensor:
    """PyTorch's convolution with the weights as they were given, and the epilogue."""
    assert prepared.weight is not None
    bias = None if prepared.bias is None else prepared.bias.to(prepared.dtype)
    y = framework_convolution(x, prepared.weight, bias, prepared.spec)
    return prepared.epilogue.applied(y, x)


def takes_padding(spec: ConvSpec) -> bool:
    """Whether the framework pads by itself: with zeros, as many on both sides, and no more of the output
    padding than it allows."""
    if spec.padding_mode != "zeros" or any(low != high for low, high in spec.padding):
        return False
    columns = (spec.output_padding, spec.stride, spec.dilation)
    return not spec.transposed or all(o < max(s, d) for o, s, d in zip(*columns, strict=True))


def in_two_axes(spec: ConvSpec) -> ConvSpec:
    """A convolution of one axis as a convolution of two, over a single row."""
    return replace(
        spec,
        kernel_size=(1, *spec.kernel_size),
        stride=(1, *spec.stride),
        padding=((0, 0), *spec.padding),
        dilation=(1, *spec.dilation),
        output_padding=(0, *spec.output_padding),
        input_size=(1, *spec.input_size),
    )
