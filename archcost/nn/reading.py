"""The padding of a convolution's subclass, read from the operators that its forward runs on `meta`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode

from archcost.trace.graph import Args, Kwargs
from archcost.trace.modules import walk
from archcost.trace.state import Untouched

__all__ = ["VARIES", "ConvSizes", "Fixed", "Pairs", "read"]

Pairs = tuple[tuple[int, int], ...]

VARIES = "its padding depends on the size of its input, which no module of torch.nn does with a stride"


class ConvSizes(Protocol):
    """The attributes of a convolution that its padding depends on."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class Fixed:
    """A padding with zeros that is the same for inputs of any size; can be pickled."""

    pairs: Pairs
    """Zeros before and after the input, on each axis."""

    def __call__(self, layer: ConvSizes, size: tuple[int, ...]) -> Pairs:
        return self.pairs


_known: WeakKeyDictionary[nn.Module, tuple[str, Fixed | str | None]] = WeakKeyDictionary()


def read(layer: _ConvNd) -> Fixed | str | None:
    """The zeros that a layer puts around its input, where that and its convolution are all that it does.

    It is run on `meta`, for as many sizes in a row as its stride has phases, and for larger ones, in both
    modes: each time it has to be operators that pad with zeros, and one convolution with its weight, bias,
    stride, dilation and groups. The layer is as before afterwards; hooks of its own do not run.

    Returns:
        None where it does something else; `VARIES` where the zeros are not the same for all sizes.
    """
    shown = repr(layer)
    if layer not in _known or _known[layer][0] != shown:
        _known[layer] = shown, _read(layer)
    return _known[layer][1]


def _read(layer: _ConvNd) -> Fixed | str | None:
    state: dict[str, torch.Tensor] = {key: p for key, p in layer._parameters.items() if p is not None}
    if set(state) - {"weight", "bias"} or "weight" not in state or layer._buffers:
        return None
    inner = [part for part in layer.modules() if part is not layer]
    if any((*p.parameters(), *p.buffers(), *p._forward_hooks, *p._forward_pre_hooks) for p in inner):
        return None
    metas: dict[str, torch.Tensor] = {
        key: nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for key, p in state.items()
    }
    extent = max((k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    least = 2 * extent + 7
    sizes = [*range(least, least + max(layer.stride) + 1), 2 * least + 1, 224]
    found: set[Pairs | None] = set()
    with Untouched(walk(layer)) as kept, torch.inference_mode(False), torch.no_grad():
        kept.use({id(p): metas[key] for key, p in state.items()})
        for layer.training in (True, False):
            for size in sizes:
                shape = (1, layer.in_channels, *(size,) * len(layer.kernel_size))
                x = torch.empty(shape, dtype=metas["weight"].dtype, device="meta")
                found.add(_zeros(layer, x, metas["weight"], metas.get("bias")))
    if len(found) > 1:
        return None if None in found else VARIES
    (pairs,) = found
    return None if pairs is None else Fixed(pairs)


class _Operators(TorchDispatchMode):
    """Records the operators that run, with their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[torch._ops.OpOverloadPacket | None, Args, torch.Tensor | None]] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Args = (),
        kwargs: Kwargs | None = None,
    ) -> torch.Tensor:
        result: torch.Tensor = func(*args, **(kwargs or {}))
        self.ops.append((func.overloadpacket, args if not kwargs else (*args, kwargs), result))
        return result


def _zeros(layer: _ConvNd, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Pairs | None:
    """The zeros around an input; None where the layer does not just pad and convolve it."""
    try:
        with _Operators() as seen:
            y = layer.forward(x)
    except Exception:  # whatever a forward raises that asks for values, or for another size
        return None
    *pads, last = seen.ops or [(None, (), None)]
    axes = len(layer.kernel_size)
    total = [0] * (2 * axes)
    for func, args, result in pads:
        if func is not torch.ops.aten.constant_pad_nd or args[0] is not x or result is None:
            return None
        sides, *value = args[1:]
        if any(value) or len(sides) > 2 * axes or min(sides) < 0:
            return None
        total = [a + b for a, b in zip(total, [*sides, *[0] * (2 * axes - len(sides))], strict=True)]
        x = result
    func, args, result = last
    if func is not torch.ops.aten.convolution or result is not y:
        return None
    if args[0] is not x or args[1] is not weight or args[2] is not bias:
        return None
    stride, padding, dilation, transposed, _, groups = args[3:]
    if (list(stride), list(dilation)) != (list(layer.stride), list(layer.dilation)):
        return None
    if transposed or groups != layer.groups:
        return None
    pairs = list(zip(total[::2], total[1::2], strict=True))[::-1]
    return tuple((low + p, high + p) for (low, high), p in zip(pairs, padding, strict=True))
