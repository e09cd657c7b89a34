"""Subclasses of PyTorch's convolutions that are known exactly: ordinary ones but for how they are padded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from archcost.errors import RewriteError

__all__ = ["PLAIN_TYPES", "Padding", "known", "padding_of", "register"]

PLAIN_TYPES: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

Padding = Callable[[Any, tuple[int, ...]], tuple[tuple[int, int], ...]]
"""From the layer and the spatial size of its input to the zeros before and behind it, on each axis."""

_adapters: dict[str, Padding] = {}


def register(kind: type[nn.Module] | str, padding: Padding) -> None:
    """Declare that a layer of exactly this type is PyTorch's convolution behind this padding with zeros.

    Its ``weight``, ``bias``, ``stride``, ``dilation`` and ``groups`` mean what they do in
    ``torch.nn.ConvNd``; its ``padding`` is not looked at.

    Args:
        kind: the type, or its full name, for one that need not be imported.
        padding: a function of a module, not a lambda: rewritten models pickle it by its name.
    """
    name = kind if isinstance(kind, str) else _full_name(kind)
    if getattr(padding, "__name__", "<lambda>") == "<lambda>" or "<locals>" in padding.__qualname__:
        raise RewriteError(
            f"register: the padding of {name} is {padding!r}; give a function defined in a module, so that "
            f"models can be pickled"
        )
    _adapters[name] = padding


def known(kind: type[nn.Module]) -> bool:
    """Whether what a layer of this type computes is known: PyTorch's own, or with an adapter."""
    return kind in PLAIN_TYPES or _full_name(kind) in _adapters


def padding_of(kind: type[nn.Module]) -> Padding | None:
    """The rule of a type with an adapter; None for PyTorch's own types, which say it themselves."""
    return None if kind in PLAIN_TYPES else _adapters[_full_name(kind)]


def same_padding(layer: Any, size: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """TensorFlow's "SAME": as many outputs as the stride goes into the input, rounded up."""
    pairs = []
    for n, k, s, d in zip(size, layer.kernel_size, layer.stride, layer.dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        pairs.append((total // 2, total - total // 2))
    return tuple(pairs)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


register("timm.layers.conv2d_same.Conv2dSame", same_padding)
