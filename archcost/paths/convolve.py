"""archcost.convolve: a convolution by a named path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from archcost.errors import InputError
from archcost.paths.path import ExecutionPath
from archcost.paths.registry import get
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["convolve", "spec_of"]

Sizes = int | Sequence[int]


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes = 1,
    padding: str | int | Sequence[int | tuple[int, int]] = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: Sizes = 0,
    padding_mode: str = "zeros",
    path: str | ExecutionPath = "native",
) -> Tensor:
    """A convolution of 1, 2 or 3 axes, as ``torch.nn.functional.conv*``, by the path of your choice.

    Args:
        x: (batch, in_channels, *spatial), in any memory format.
        weight: (out_channels, in_channels / groups, *kernel_size); transposed
            (in_channels, out_channels / groups, *kernel_size).
        bias: (out_channels,).
        stride: for all axes, or a number for each; so are dilation and output_padding.
        padding: for all axes, a number for each, or a (low, high) pair for each; "valid" is none, "same"
            keeps the size, where the stride is 1.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        path: a name, see ``archcost.paths.available()``, or an `ExecutionPath`.

    The weights are prepared at each call; to use them often, prepare them once with
    ``archcost.paths.get(path).prepare``.

    Returns:
        (batch, out_channels, *output_size).

    >>> x, weight = torch.arange(9.0).reshape(1, 1, 3, 3), torch.ones(1, 1, 2, 2)
    >>> archcost.convolve(x, weight, path="winograd-2")
    tensor([[[[ 8., 12.],
              [20., 24.]]]])

    Raises:
        InputError: the tensors do not fit each other, or the path does not support the convolution; the
            message has the reason.
        SpecError: no path has that name.
    """
    path = get(path) if isinstance(path, str) else path
    spec = spec_of(
        x,
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=transposed,
        output_padding=output_padding,
        padding_mode=padding_mode,
    )
    return path.run(x, path.prepare(weight, bias, spec))


def spec_of(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes = 1,
    padding: str | int | Sequence[int | tuple[int, int]] = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: Sizes = 0,
    padding_mode: str = "zeros",
) -> ConvSpec:
    """The `ConvSpec` of these tensors and arguments, those of `convolve`.

    Raises:
        InputError: they do not fit each other.
    """
    axes = x.dim() - 2
    if axes not in (1, 2, 3):
        raise InputError(
            f"convolve: x has shape {tuple(x.shape)}, expected (batch, channels, *spatial) with 1, 2 or 3 "
            f"spatial axes"
        )
    if weight.dim() != x.dim():
        layout = "in_channels, out_channels / groups" if transposed else "out_channels, in_channels / groups"
        raise InputError(
            f"convolve: weight has shape {tuple(weight.shape)}, expected {axes + 2} dimensions "
            f"({layout}, *kernel_size) for x of shape {tuple(x.shape)}"
        )
    inputs, outputs = weight.shape[1] * groups, weight.shape[0]
    if transposed:
        inputs, outputs = weight.shape[0], weight.shape[1] * groups
    if x.shape[1] != inputs:
        raise InputError(
            f"convolve: x has {x.shape[1]} channels, expected {inputs} for weight of shape "
            f"{tuple(weight.shape)} and groups={groups}"
        )
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise InputError(f"convolve: bias has shape {tuple(bias.shape)}, expected ({outputs},)")
    for what, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (tensor.dtype, tensor.device) != (x.dtype, x.device):
            raise InputError(
                f"convolve: {what} is {tensor.dtype} on {tensor.device}, expected {x.dtype} on {x.device}, "
                f"where x is"
            )
    kernel = tuple(weight.shape[2:])
    if isinstance(padding, str):
        padding = _named_padding(padding, kernel, stride, dilation, transposed)
    return ConvSpec(
        in_channels=inputs,
        out_channels=outputs,
        kernel_size=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=transposed,
        output_padding=output_padding,
        padding_mode=padding_mode,
        bias=bias is not None,
        input_size=tuple(x.shape[2:]),
        batch=x.shape[0],
    )


def _named_padding(
    name: str, kernel: tuple[int, ...], stride: Sizes, dilation: Sizes, transposed: bool
) -> tuple[tuple[int, int], ...]:
    """Padding by its name, as ``torch.nn.functional.conv*``: an odd pixel goes to the far side."""
    if name not in ("same", "valid") or transposed:
        allowed = "numbers" if transposed else "numbers, 'same' or 'valid'"
        raise InputError(f"convolve: padding={name!r}, expected {allowed}")
    if name == "valid":
        return ((0, 0),) * len(kernel)
    if max((stride,) if isinstance(stride, int) else stride) > 1:
        raise InputError(f"convolve: padding='same' needs stride 1, got stride={stride!r}")
    steps = (dilation,) * len(kernel) if isinstance(dilation, int) else dilation
    totals = [d * (k - 1) for k, d in zip(kernel, steps, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)
