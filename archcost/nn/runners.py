"""Pre-bound calls of paths: for inputs of a fixed shape and layout, without gradients or tracers.

`ExecutionPath.run` checks its input each time, which takes longer than a small layer.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import torch

from archcost.kernels.bound import Bound, bound
from archcost.kernels.call import CallOptions
from archcost.kernels.packed import Packed
from archcost.paths.algorithms.framework import takes_padding
from archcost.paths.algorithms.native import ChannelsLastPath, NativePath
from archcost.paths.algorithms.prepacked import PrepackedPath
from archcost.paths.algorithms.tensor import Fused
from archcost.paths.epilogue import Epilogue
from archcost.paths.path import ExecutionPath, Prepared

__all__ = ["Clamp", "KernelRunner", "Runner", "runner_for"]

Clamp = tuple[float, float] | None
Runner = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Gives the output for an input and an addend of the output's shape, added before the clamp, or None."""


def runner_for(path: ExecutionPath, x: torch.Tensor, prepared: Prepared, clamp: Clamp) -> Runner:
    """A pre-bound call of a path for inputs of the shape, strides, dtype and device of ``x``.

    Args:
        path: the path.
        x: an example input.
        prepared: the weights, prepared by the path.
        clamp: the last step; the epilogue's, or, where that has none, a clamp after the addition.
    """
    content, end = prepared.content, prepared.epilogue
    if isinstance(content, Fused) and _is_plain(content, x, prepared):

        def bind(x: torch.Tensor, among: int | None = None) -> Bound | None:
            options: CallOptions = {
                "padding": content.padding,
                "stride": content.stride,
                "dilation": content.dilation,
                "clamp": clamp,
                "memory_format": end.memory_format,
            }
            return bound(content.packed, x, prepared.bias, options, among)  # type: ignore[arg-type]

        call = bind(x)
        if call is not None:
            return KernelRunner(call, bind)
    if type(path) is PrepackedPath and x.dim() == 4 and content[1] is None:
        return _prepacked(prepared, clamp)
    if type(path) in (NativePath, ChannelsLastPath) and x.dim() == 4:
        plain = _by_pytorch(prepared, type(path) is ChannelsLastPath)
        if plain is not None:
            return _behind(plain, end, clamp)
    return _behind(lambda x: path.run(x, prepared), end, clamp, clamped=clamp == end.clamp)


def _is_plain(content: Fused, x: torch.Tensor, prepared: Prepared) -> bool:
    return (
        isinstance(content.packed, Packed)
        and not content.blocks
        and prepared.spec.padding_mode == "zeros"
        and x.dtype is torch.float32
    )


class KernelRunner:
    """A pre-bound call of a compiled kernel, which can write into a slice of a larger tensor too."""

    def __init__(self, call: Bound, bind: Callable[[torch.Tensor, int], Bound | None]) -> None:
        self._call, self._bind = call, bind
        self._slices: dict[int, Bound | None] = {}

    def __call__(self, x: torch.Tensor, addend: torch.Tensor | None) -> torch.Tensor:
        call = self._call
        if addend is not None and not call.fits(addend):
            addend = torch.empty_strided(call.shape, call.strides, dtype=torch.float32).copy_(addend)
        return call(x, addend)

    def begin(self, channels: int) -> torch.Tensor | None:
        """An empty tensor of this many channels to hold the output as a slice; None where it cannot."""
        (batch, own, *size), strides = self._call.shape, self._call.strides
        if own < 2 or strides[1] != 1:
            return None
        return torch.empty((batch, channels, *size), memory_format=torch.channels_last)

    def into(self, x: torch.Tensor, whole: torch.Tensor, first: int) -> bool:
        """Write the output into the channels of ``whole`` from ``first`` on; False where it does not fit."""
        (batch, own, *size), channels = self._call.shape, whole.shape[1]
        if own < 2 or self._call.strides[1] != 1 or whole.shape != (batch, channels, *size):
            return False
        if channels not in self._slices:
            self._slices[channels] = self._bind(x, channels)
        call = self._slices[channels]
        if call is None:
            return False
        call.write(x, whole.data_ptr() + 4 * first)
        return True


def _prepacked(prepared: Prepared, clamp: Clamp) -> Runner:
    packed, _, options, rest = prepared.content
    bias, call = _detached(prepared.bias), torch.ops.mkldnn._convolution_pointwise.default
    clamped = rest.clamp is None and prepared.epilogue.clamp is not None

    def plain(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = call(x, packed, bias, *options)
        return y

    return _behind(plain, prepared.epilogue, clamp, clamped=clamped)


def _by_pytorch(prepared: Prepared, last: bool) -> Callable[[torch.Tensor], torch.Tensor] | None:
    spec = prepared.spec
    if not takes_padding(spec) or spec.transposed:
        return None
    weight, bias = prepared.content.detach(), _detached(prepared.bias)
    stride, dilation, groups = spec.stride, spec.dilation, spec.groups
    padding = tuple(low for low, _ in spec.padding)

    def plain(x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return plain


def _behind(
    plain: Callable[[torch.Tensor], torch.Tensor], end: Epilogue, clamp: Clamp, *, clamped: bool = False
) -> Runner:
    """A call followed by addition, clamp and layout, in place: no other code has the output."""
    limit, layout = None if clamped else _limit(clamp), end.memory_format

    def run(x: torch.Tensor, addend: torch.Tensor | None) -> torch.Tensor:
        y = plain(x)
        if addend is not None:
            y = y.add_(addend)
        if limit is not None:
            y = limit(y)
        return y if layout is None else y.contiguous(memory_format=layout)

    return run


def _limit(clamp: Clamp) -> Callable[[torch.Tensor], torch.Tensor] | None:
    if clamp is None:
        return None
    low, high = clamp
    return torch.relu_ if clamp == (0, inf) else lambda y: y.clamp_(low, high)


def _detached(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return tensor.detach() if tensor is not None and tensor.requires_grad else tensor
