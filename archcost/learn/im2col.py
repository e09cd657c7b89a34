"""learn.im2col: a convolution as one matrix product, stage by stage."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from archcost.learn.given import Array, Given, given
from archcost.learn.stages import Stage, matrix, planes
from archcost.learn.steps import Steps
from archcost.report.units import count_text, shape_text

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["columns_of", "folded", "im2col"]


def im2col(
    x: ArrayLike | Tensor, w: ArrayLike | Tensor, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Steps:
    """Show a convolution as one matrix product: windows become columns, filters rows.

    Args:
        x: (batch, channels, rows, columns), or without its leading axes; (n,) is a sequence.
        w: (filters, channels, rows, columns), or without its leading axes, as many as x has.
        stride: for all axes; so are padding, of zeros, and dilation.
        padding: zeros on every side.
        dilation: the distance of the taps.

    Returns:
        The stages; their ``output`` is that of ``torch.nn.functional.conv2d``, in float64.

    Raises:
        InputError: x and w do not fit each other, or are too large to be read.

    >>> archcost.learn.im2col([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 0], [0, 1]]).output
    tensor([[ 6.,  8.],
            [12., 14.]], dtype=torch.float64)
    """
    case = given("im2col", x, w, stride, padding, dilation)
    spec, columns = case.spec, columns_of(case)
    rows = case.w.reshape(len(case.w), -1)
    product = rows @ columns
    y = folded(case, product)
    taps, channels = prod(spec.kernel_size), spec.in_channels
    times = f"{columns.size / case.x.size:.2g} times"
    batch = f", those of the {spec.batch} images side by side" * (spec.batch > 1)
    below = f", those of the {channels} channels below one another" * (channels > 1)
    stages = (
        Stage(
            "Input and filters",
            f"{shape_text(spec.output_size)} positions, each with a window of {shape_text(spec.kernel_size)}",
            case.panels,
        ),
        Stage(
            "Windows become columns",
            f"a column for each position, its {taps} pixels{below}{batch}; {count_text(case.x.size)} pixels "
            f"become {count_text(columns.size)} entries, {times} the memory ({4 * columns.size} bytes in "
            f"float32 for {4 * case.x.size})",
            (matrix("columns", columns), matrix("times each pixel occurs", _repeats(case))),
        ),
        Stage(
            "Filters become rows",
            f"a row for each filter, its {channels * taps} weights in the order of the columns",
            (matrix("rows", rows),),
        ),
        Stage(
            "One matrix product",
            f"{shape_text(rows.shape)} by {shape_text(columns.shape)}: an entry for each filter and position",
            (matrix("rows x columns", product),),
        ),
        Stage(
            "Back to a feature map",
            f"each row of the product, read in rows of {spec.output_size[1]}, is a channel of the output",
            planes("y", y, "image", "channel"),
        ),
    )
    count = f"{count_text(spec.macs)} multiplications, as many as by the definition"
    return Steps("im2col", case.text, stages, count, case.output(y))


def columns_of(case: Given) -> Array:
    """The matrix of (channels * taps, batch * positions)."""
    import torch

    from archcost.paths.algorithms import im2col as path

    whole = path.im2col(torch.from_numpy(case.x), case.spec).numpy()
    found: Array = np.concatenate(list(whole), axis=1)
    return found


def folded(case: Given, product: Array) -> Array:
    """(filters, batch * positions) to (batch, filters, *output_size)."""
    spec = case.spec
    maps: Array = product.reshape(len(case.w), spec.batch, *spec.output_size).swapaxes(0, 1)
    return maps


def _repeats(case: Given) -> Array:
    """For each pixel of an image the number of windows that hold it."""
    found = []
    for n, k, s, d, out in zip(
        case.x.shape[2:], case.spec.kernel_size, case.spec.stride, case.spec.dilation, case.spec.output_size,
        strict=True,
    ):  # fmt: skip
        reads = np.zeros(n)
        for tap in range(k):
            reads[tap * d : tap * d + (out - 1) * s + 1 : s] += 1
        found.append(reads)
    down, across = found
    repeats: Array = np.outer(down, across)
    return repeats
