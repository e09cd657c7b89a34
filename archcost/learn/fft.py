"""learn.fft: a convolution as products of frequencies, stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from archcost.learn.given import Array, given
from archcost.learn.stages import Stage, matrix, planes
from archcost.learn.steps import Steps
from archcost.report.units import count_text, shape_text

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["fft"]


def fft(
    x: ArrayLike | Tensor, w: ArrayLike | Tensor, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Steps:
    """Show a convolution by the Fourier transform: transform, multiply each frequency, transform back.

    Args:
        x: as in `archcost.learn.im2col`; a sequence is shown as the sum of its sinusoids as well.
        w: as in `archcost.learn.im2col`.
        stride: the outputs between are computed, and thrown away.
        padding: zeros on every side.
        dilation: the distance of the taps.

    Returns:
        The stages; their ``output`` is that of ``torch.nn.functional.conv2d``, in float64.

    Raises:
        InputError: x and w do not fit each other, or are too large to be read.
    """
    case = given("fft", x, w, stride, padding, dilation)
    spec, size = case.spec, case.x.shape[2:]
    kernel = np.zeros((*case.w.shape[:2], *size))
    kernel[..., : spec.extent[0], : spec.extent[1]] = case.grown
    seen, filters = np.fft.fft2(case.x), np.fft.fft2(kernel)
    product = np.einsum("nchw,ochw->nohw", seen, filters.conj())
    whole = np.fft.ifft2(product).real
    valid = tuple(n - e + 1 for n, e in zip(size, spec.extent, strict=True))
    y = whole[..., : valid[0] : spec.stride[0], : valid[1] : spec.stride[1]]
    lost = f"; of the {shape_text(valid)} outputs that are left, stride {max(spec.stride)} keeps " + (
        f"{shape_text(y.shape[2:])} and throws {1 - y[0, 0].size / np.prod(valid):.0%} of the work away"
    )
    together = f", summed over the {spec.in_channels} channels" * (spec.in_channels > 1)
    frequencies = product.size * spec.in_channels
    stages = [
        Stage("Input and filters", f"{shape_text(valid)} positions with a whole window", case.panels),
        Stage(
            "Filters padded",
            f"zeros make each filter as large as the input, {shape_text(size)}",
            planes("w", kernel, "filter", "channel"),
        ),
        *([_sinusoids(case.x[0, 0, 0])] if case.rank == 1 else []),
        Stage(
            "Transformed",
            "X[f] is the sum of x[p] exp(-2 pi i f p / n): the amount and phase of each frequency",
            (*planes("X", seen, "image", "channel"), *planes("W", filters, "filter", "channel")),
        ),
        Stage(
            "Each frequency multiplied",
            f"X times the conjugate of W, place by place{together}: a filter makes each frequency larger or "
            f"smaller and moves it, and mixes none",
            planes("X conj(W)", product, "image", "filter"),
        ),
        Stage(
            "Transformed back",
            f"{shape_text(size)} outputs; the windows of the last {_wrapping(spec.extent, case.rank)} reach "
            f"beyond the edge, and wrap around to the beginning",
            planes("inverse", whole, "image", "filter"),
        ),
        Stage(
            "Cut",
            "outputs whose window wrapped around are thrown away" + lost * (max(spec.stride) > 1),
            planes("y", y, "image", "channel"),
        ),
    ]
    count = (
        f"{count_text(frequencies)} complex products, half of them mirror images of the other half, and the "
        f"transforms; {count_text(spec.macs)} real multiplications by the definition"
    )
    return Steps("fft", case.text, tuple(stages), count, case.output(y))


def _wrapping(extent: tuple[int, ...], rank: int) -> str:
    """How many of the last outputs wrap around, in words."""
    rows, columns = (one - 1 for one in extent)
    return f"{columns}" if rank == 1 else f"{rows} rows and {columns} columns"


def _sinusoids(x: Array) -> Stage:
    """The stage that shows a sequence as a sum of sinusoids: a row for each frequency."""
    n = len(x)
    spectrum, places = np.fft.rfft(x) / n, np.arange(n)
    twice = np.where((np.arange(len(spectrum)) == 0) | (2 * np.arange(len(spectrum)) == n), 1, 2)
    waves = [
        factor * abs(part) * np.cos(2 * np.pi * f * places / n + np.angle(part))
        for f, (factor, part) in enumerate(zip(twice, spectrum, strict=True))
    ]
    panels = (matrix("sinusoids", np.array(waves)), matrix("their sum, x", np.sum(waves, axis=0)[None]))
    said = f"row f is a cosine that turns f times in {n} pixels; the rows add up to x"
    return Stage("x as a sum of sinusoids", said, panels)
