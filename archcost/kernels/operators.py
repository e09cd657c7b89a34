"""The kernels for paths: called directly, or as an operator where PyTorch traces.

``torch.compile``, ``torch.export`` and dispatch modes see the operator ``archcost::convolve``. It records no
gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from archcost.kernels.call import CallOptions, window
from archcost.kernels.packed import Packed
from archcost.kernels.tensors import channels_together, planar, readable, sides

__all__ = ["convolve"]

Pairs = tuple[tuple[int, int], ...]


def convolve(
    x: Tensor, packed: Packed | tuple[Packed, ...], bias: Tensor | None = None, **options: Unpack[CallOptions]
) -> Tensor:
    """The convolution by the kernel that its weights were packed for.

    Several packed weights each have a share of the channels.
    """
    if isinstance(packed, tuple):
        return _by_groups(x, packed, bias, options)
    return _as_operator(x, packed, bias, options) if _is_watched(x) else packed.run(x, bias, options)


def _by_groups(x: Tensor, packed: tuple[Packed, ...], bias: Tensor | None, options: CallOptions) -> Tensor:
    xs = x.chunk(len(packed), 1)
    biases = [None] * len(packed) if bias is None else bias.chunk(len(packed))
    y = torch.cat([convolve(*one, **options) for one in zip(xs, packed, biases, strict=True)], 1)
    memory_format = options.get("memory_format")
    return y if memory_format is None else y.contiguous(memory_format=memory_format)


def _is_watched(x: Tensor) -> bool:
    """Whether tensor operations are traced, or the tensor is of a subclass."""
    return (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_tracing()
    )


def _as_operator(x: Tensor, packed: Packed, bias: Tensor | None, options: CallOptions) -> Tensor:
    axes = x.dim() - 2
    clamp, memory_format = options.get("clamp"), options.get("memory_format")
    y: Tensor = _convolve(
        x,
        packed.data,
        None if bias is None else bias.detach(),
        packed.kind,
        packed.numbers,
        packed.isa,
        [side for pair in sides(options.get("padding", 0), axes) for side in pair],
        window(packed.taps, options, axes)[2:],
        None if clamp is None else [float(limit) for limit in clamp],
        None if memory_format is None else memory_format == torch.channels_last,
    )
    return y


@torch.library.custom_op("archcost::convolve", mutates_args=(), device_types="cpu")
def _convolve(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    kind: str,
    numbers: Sequence[int],
    isa: str,
    padding: Sequence[int],
    steps: Sequence[int],
    clamp: Sequence[float] | None,
    channels_last: bool | None,
) -> Tensor:
    """``kind`` and ``numbers`` are those of `Packed`; padding as low, high of each axis, stride and dilation
    as those of an image, whose rows alone a sequence has."""
    axes = x.dim() - 2
    options: CallOptions = {
        "padding": _pairs(padding),
        "stride": steps[:2][-axes:],
        "dilation": steps[2:][-axes:],
        "clamp": None if clamp is None else (clamp[0], clamp[1]),
        "memory_format": None if channels_last is None else _layout(channels_last),
    }
    return Packed.of(kind, numbers, isa, packed).run(x, bias, options)


@_convolve.register_fake
def _(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    kind: str,
    numbers: Sequence[int],
    isa: str,
    padding: Sequence[int],
    steps: Sequence[int],
    clamp: Sequence[float] | None,
    channels_last: bool | None,
) -> Tensor:
    source = readable(planar(x))
    size = [
        (n + low + high - d * (k - 1) - 1) // s + 1
        for n, (low, high), k, s, d in zip(
            source.shape[2:], ((0, 0), *_pairs(padding))[-2:], numbers[:2], steps[:2], steps[2:], strict=True
        )
    ]
    if channels_last is None:
        channels_last = channels_together(source.shape, source.stride())
    shape = (x.shape[0], numbers[2], *size)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(channels_last))
    return y.squeeze(2) if x.dim() == 3 else y


def _pairs(padding: Sequence[int]) -> Pairs:
    return sides(list(zip(padding[::2], padding[1::2], strict=True)), len(padding) // 2)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
