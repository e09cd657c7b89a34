"""Adapters for subclasses of PyTorch's convolutions that differ from them in their padding alone."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from archcost.errors import RewriteError
from archcost.nn.reading import VARIES, ConvSizes, Fixed, Pairs, read

__all__ = ["PLAIN_TYPES", "Fixed", "Padding", "known", "padding_of", "register", "why_unknown"]

PLAIN_TYPES: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

_COMPUTING = (
    *(
        "forward",
        "_conv_forward",
        "_output_padding",
        "__call__",
        "_call_impl",
        "__getattr__",
        "__getattribute__",
    ),
    *("weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode", "output_padding"),
    *("_reversed_padding_repeated_twice", "_save_to_state_dict", "_load_from_state_dict"),
)
"""The attributes that a subclass must not redefine to be an ordinary convolution."""


Padding = Callable[[ConvSizes, tuple[int, ...]], Pairs]
"""From the layer and the spatial size of its input to the zeros before and behind it, on each axis."""

_adapters: dict[str, Padding] = {}


def register(kind: type[nn.Module] | str, padding: Padding) -> None:
    """Declare that a layer of exactly this type is PyTorch's convolution after this padding with zeros.

    Its ``weight``, ``bias``, ``stride``, ``dilation`` and ``groups`` mean what they do in
    ``torch.nn.ConvNd``; its ``padding`` is not looked at.

    Args:
        kind: the type, or its full name, for one that need not be imported.
        padding: a function of a module, not a lambda: rewritten models pickle it by its name.

    Raises:
        RewriteError: the padding is not a function of a module.
    """
    name = kind if isinstance(kind, str) else _full_name(kind)
    if getattr(padding, "__name__", "<lambda>") == "<lambda>" or "<locals>" in padding.__qualname__:
        raise RewriteError(
            f"register: the padding of {name} is {padding!r}; give a function defined in a module, so that "
            f"models can be pickled"
        )
    _adapters[name] = padding


def known(layer: nn.Module) -> bool:
    """Whether it is known what a layer computes: PyTorch's own, by an adapter, or by its operators."""
    kind = type(layer)
    return _is_plain(kind) or _full_name(kind) in _adapters or isinstance(_read(layer), Fixed)


def padding_of(layer: nn.Module) -> Padding | None:
    """The padding rule of a known layer; None for PyTorch's own convolutions, whose attributes say it."""
    kind = type(layer)
    if _is_plain(kind):
        return None
    found = _adapters.get(_full_name(kind)) or _read(layer)
    return None if isinstance(found, str) else found


def why_unknown(layer: nn.Module) -> str:
    """The reason why it is not known what a layer computes, to follow the layer's name in a message."""
    if _read(layer) == VARIES:
        return VARIES
    return (
        f"{_full_name(type(layer))} is not one of torch.nn's convolutions, and may compute something else: "
        f"archcost.nn.adapters.register says how it pads, if that is all"
    )


def _read(layer: nn.Module) -> Fixed | str | None:
    if not isinstance(layer, _ConvNd) or layer.transposed or any(map(is_lazy, layer.parameters())):
        return None
    return read(layer)


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether it is PyTorch's own convolution, or a subclass that computes nothing of its own."""
    base = next((base for base in kind.__mro__ if base in PLAIN_TYPES), None)
    if base is None or base is kind:
        return base is kind
    above = kind.__mro__[: kind.__mro__.index(base)]
    return not any(name in vars(one) for one in above for name in _COMPUTING)


def same_padding(layer: ConvSizes, size: tuple[int, ...]) -> Pairs:
    """TensorFlow's "SAME": as many outputs as the stride goes into the input, rounded up."""
    pairs = []
    for n, k, s, d in zip(size, layer.kernel_size, layer.stride, layer.dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        pairs.append((total // 2, total - total // 2))
    return tuple(pairs)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


register("timm.layers.conv2d_same.Conv2dSame", same_padding)
