"""Convolutions, pools and interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from archcost.engine.graph import Value
from archcost.engine.operators import Affine, Convolution, Interpolate, Mean, Pool, Reshape
from archcost.engine.reading.registry import reads

if TYPE_CHECKING:
    from archcost.engine.reading.reader import Arguments, Reader


@reads("aten.convolution")
def convolution(reader: Reader, given: Arguments) -> Value | None:
    x, weight, bias = given["input"], given["weight"], given["bias"]
    if given["transposed"] or weight.constant is None or len(weight.shape) not in (3, 4):
        return None
    if bias is not None and bias.constant is None:
        return None
    tensor, shape = weight.constant, given.shape
    row = len(weight.shape) == 3
    stride, padding, dilation = (_window(given[name]) for name in ("stride", "padding", "dilation"))
    if row:  # a row of pixels
        tensor = tensor[:, :, None]
        stride, padding, dilation = (1, stride[0]), (0, padding[0]), (1, dilation[0])
        x = reader.add(Reshape((*x.shape[:2], 1, x.shape[2])), x, shape=(*x.shape[:2], 1, x.shape[2]))
        shape = (*shape[:2], 1, shape[2])
    operator = Convolution(
        weight=tensor,
        bias=None if bias is None else bias.constant,
        stride=stride,
        padding=((padding[0],) * 2, (padding[1],) * 2),
        dilation=dilation,
        groups=given["groups"],
    )
    y = reader.add(operator, x, shape=shape)
    return reader.add(Reshape(given.shape), y, shape=given.shape) if row else y


@reads("aten.native_batch_norm", "aten._native_batch_norm_legit_no_training")
def batch_norm(reader: Reader, given: Arguments) -> tuple[Value, ...] | None:
    if given.op.base == "aten.native_batch_norm" and given["training"]:
        return None
    x, mean, variance = given.first, given["running_mean"], given["running_var"]
    weight, bias = given["weight"], given["bias"]
    if any(value is not None and value.constant is None for value in (mean, variance, weight, bias)):
        return None
    if mean is None or variance is None:
        return None
    scale = (variance.constant.double() + given["eps"]).rsqrt()
    if weight is not None:
        scale = scale * weight.constant.double()
    shift = -mean.constant.double() * scale
    if bias is not None:
        shift = shift + bias.constant.double()
    return (reader.add(Affine(scale, shift), x, shape=x.shape),)


def _window(values: int | Sequence[int]) -> tuple[int, int]:
    one = (values,) if isinstance(values, int) else tuple(values)
    return (one[0], one[-1])


def _sides(
    size: tuple[int, ...], out: tuple[int, ...], taps: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int], dilation: tuple[int, int] = (1, 1),
) -> tuple[tuple[int, int], tuple[int, int]]:  # fmt: skip
    """Padding with what rounding the size up adds; it may be negative, where pixels are not looked at."""
    rows, columns = (
        (padding[i], (out[i] - 1) * stride[i] + (taps[i] - 1) * dilation[i] + 1 - size[i] - padding[i])
        for i in (0, 1)
    )
    return rows, columns


@reads("aten.max_pool2d_with_indices", "aten.max_pool2d")
def max_pool(reader: Reader, given: Arguments) -> tuple[Value, ...] | None:
    x, taps = given.first, _window(given["kernel_size"])
    if len(x.shape) != 4:
        return None
    stride = _window(given["stride"]) if given["stride"] else taps
    padding, dilation = _window(given["padding"]), _window(given["dilation"])
    sides = _sides(x.shape[2:], given.shape[2:], taps, stride, padding, dilation)
    return (reader.add(Pool("max", taps, stride, sides, dilation), x, shape=given.shape),)


@reads("aten.avg_pool2d")
def average_pool(reader: Reader, given: Arguments) -> Value | None:
    x, taps = given.first, _window(given["kernel_size"])
    if len(x.shape) != 4 or given["divisor_override"] is not None:
        return None
    stride = _window(given["stride"]) if given["stride"] else taps
    padding = _window(given["padding"])
    sides = _sides(x.shape[2:], given.shape[2:], taps, stride, padding)
    counted = ((padding[0],) * 2, (padding[1],) * 2) if given["count_include_pad"] else None
    if counted is not None and counted == ((0, 0), (0, 0)):
        counted = None
    return reader.add(Pool("average", taps, stride, sides, counts_padding=counted), x, shape=given.shape)


@reads("aten._adaptive_avg_pool2d", "aten.adaptive_avg_pool2d")
def adaptive_average_pool(reader: Reader, given: Arguments) -> Value | None:
    x, size = given.first, given.shape[2:]
    if len(x.shape) != 4:
        return None
    if x.shape == given.shape:
        return x
    if size == (1, 1):
        return reader.add(Mean((2, 3), True), x, shape=given.shape)
    if x.shape[2] % size[0] or x.shape[3] % size[1]:
        return None
    taps = (x.shape[2] // size[0], x.shape[3] // size[1])
    return reader.add(Pool("average", taps, taps, ((0, 0), (0, 0))), x, shape=given.shape)


@reads("aten.upsample_nearest2d", "aten.upsample_bilinear2d")
def interpolate(reader: Reader, given: Arguments) -> Value | None:
    if given.op.name.endswith(".vec"):
        factors = given["scale_factors"] or (None, None)
    else:
        factors = (given["scales_h"], given["scales_w"])
    bilinear = "bilinear" in given.op.base
    operator = Interpolate(
        "bilinear" if bilinear else "nearest",
        given.shape[2:],  # type: ignore[arg-type]
        bilinear and given["align_corners"],
        tuple(factors),
    )
    x = given["input"] if given.op.name.endswith(".vec") else given.first
    return reader.add(operator, x, shape=given.shape)
