"""Modules of ``torch.nn`` built from the description of a chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from archcost.errors import RewriteError
from archcost.merging.chain import Activation, Chain, Conv, Kept
from archcost.nn.like import READ_BY_PARENTS
from archcost.nn.path_conv import PathConv
from archcost.spec import ConvSpec

__all__ = ["Argument", "built", "conv_arguments", "conv_type", "padding_layer"]

Argument = str | int | tuple[int, ...]
"""An argument of a convolution's constructor."""

Tensors = Sequence[tuple[torch.Tensor, torch.Tensor | None]]

_PADS = {
    "zeros": "ZeroPad",
    "reflect": "ReflectionPad",
    "replicate": "ReplicationPad",
    "circular": "CircularPad",
}


def built(chain: Chain, old: nn.Module, weights: Tensors | None, kept: Mapping[str, nn.Module]) -> nn.Module:
    """The module of a chain: one of ``torch.nn``, or several in a ``Sequential``.

    It has the attributes of the convolution ``old``, such as ``in_channels``, for parents that read them.

    Args:
        weights: weight and bias of each convolution of the chain; None: PyTorch's random initialisation,
            which leaves the random state unchanged.
        kept: the modules that the chain takes over, by name.
    """
    like = next((p for p in old.parameters()), None)
    given = iter(weights) if weights is not None else None
    made: list[nn.Module] = []
    for step in chain:
        if isinstance(step, Kept):
            made.append(kept[step.name])
        elif isinstance(step, Activation):
            made.append(getattr(nn, step.kind)())
        else:
            made.extend(_convolution(step, None if given is None else next(given), like))
    if len(made) == 1:
        return made[0]
    whole = nn.Sequential(*made) if made else nn.Identity()
    for name in (*READ_BY_PARENTS, "in_features", "out_features"):
        if hasattr(old, name):
            setattr(whole, name, getattr(old, name))
    return whole


def conv_type(spec: ConvSpec) -> str:
    """Name of the class of ``torch.nn`` for a convolution: ``ConvTranspose2d``."""
    return f"Conv{'Transpose' * spec.transposed}{spec.axes}d"


def conv_arguments(spec: ConvSpec) -> dict[str, Argument]:
    """Constructor arguments of a convolution that differ from the defaults, without channels and
    kernel_size."""
    pairs = spec.padding
    even = all(low == high for low, high in pairs)
    axes = spec.axes
    arguments: dict[str, tuple[Argument, Argument]] = {
        "stride": (spec.stride, (1,) * axes),
        "padding": (tuple(low if even else 0 for low, _ in pairs), (0,) * axes),
        "output_padding": (spec.output_padding, (0,) * axes),
        "dilation": (spec.dilation, (1,) * axes),
        "groups": (spec.groups, 1),
        "bias": (spec.bias, True),
        "padding_mode": (spec.padding_mode if even else "zeros", "zeros"),
    }
    return {name: value for name, (value, default) in arguments.items() if value != default}


def padding_layer(spec: ConvSpec) -> tuple[str, tuple[int, ...]] | None:
    """Class name and argument of a padding layer for padding that no convolution has; else None."""
    pairs = spec.padding
    if all(low == high for low, high in pairs):
        return None
    name = f"{_PADS[spec.padding_mode]}{len(pairs)}d"
    return name, tuple(side for pair in reversed(pairs) for side in pair)


def _convolution(
    step: Conv, given: tuple[torch.Tensor, torch.Tensor | None] | None, like: torch.Tensor | None
) -> Iterator[nn.Module]:
    spec = step.spec
    pad = padding_layer(spec)
    if pad is not None:
        yield getattr(nn, pad[0])(pad[1])
    # On meta, where nothing is drawn: the state of the random numbers is the user's.
    placed = {"device": "meta", "dtype": None if like is None else like.dtype}
    if step.linear:
        layer = nn.Linear(spec.in_channels, spec.out_channels, spec.bias, **placed)
    else:
        kind = getattr(nn, conv_type(spec))
        arguments = {**conv_arguments(spec), **placed}
        layer = kind(spec.in_channels, spec.out_channels, spec.kernel_size, **arguments)
    layer = layer.to_empty(device="cpu" if like is None else like.device)
    if given is None:
        with torch.random.fork_rng():
            layer.reset_parameters()
    else:
        _fill(layer, *given)
    if step.channels_last:
        layout = torch.channels_last if spec.axes == 2 else torch.channels_last_3d
        layer = layer.to(memory_format=layout)
    yield layer if step.path is None else PathConv(layer, step.path)


def _fill(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    for name, value in (("weight", weight), ("bias", bias)):
        there = layer._parameters[name]
        shape, wanted = (None if t is None else tuple(t.shape) for t in (value, there))
        if shape != wanted:
            raise RewriteError(
                f"{type(layer).__name__}: the rule gives a {name} of shape {shape} for one of shape {wanted}"
            )
        if there is not None and value is not None:
            with torch.no_grad():
                there.copy_(value)
