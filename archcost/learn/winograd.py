"""learn.winograd: Winograd's F(m x m, r x r) on small arrays, stage by stage."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from archcost.errors import InputError
from archcost.learn.given import Array, given
from archcost.learn.stages import Panel, Stage, matrix, planes
from archcost.learn.steps import Steps
from archcost.report.units import count_text, shape_text

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

    from archcost.paths.algorithms.toom_cook import Matrix

__all__ = ["winograd"]

_MOST = 8  # pixels a side of a tile


def winograd(x: ArrayLike | Tensor, w: ArrayLike | Tensor, *, m: int = 2, padding: int = 0) -> Steps:
    """Show a convolution of stride 1 by Winograd's algorithm (Lavin and Gray 2015): a product for each pixel.

    A tile of m + r - 1 pixels a side gives m outputs a side. The stages show the first tile, and the outputs
    of all.

    Args:
        x: as in `archcost.learn.im2col`.
        w: as in `archcost.learn.im2col`.
        m: the outputs of a tile, along each axis.
        padding: zeros on every side.

    Returns:
        The stages; their ``output`` is that of ``torch.nn.functional.conv2d``, in float64.

    Raises:
        InputError: x and w do not fit each other, are too large to be read, or a tile has over 8 pixels a
            side.
    """
    from archcost.paths.algorithms.toom_cook import toom_cook

    case = given("winograd", x, w, 1, padding)
    if not isinstance(m, int) or m < 1 or m + max(case.spec.kernel_size) - 1 > _MOST:
        raise InputError(f"learn.winograd: m is {m!r}; with r taps, m + r - 1 is at most {_MOST}")
    kernel, out = case.spec.kernel_size, case.spec.output_size
    steps = tuple(min(m, n) if k == 1 and n == 1 else m for k, n in zip(kernel, out, strict=True))
    down, across = (toom_cook(step, k) for step, k in zip(steps, kernel, strict=True))
    tile = tuple(step + k - 1 for step, k in zip(steps, kernel, strict=True))
    number = tuple(ceil(n / step) for n, step in zip(out, steps, strict=True))
    short = [t * s + k - 1 - n for t, s, k, n in zip(number, steps, kernel, case.x.shape[2:], strict=True)]
    image = np.pad(case.x, ((0, 0), (0, 0), (0, short[0]), (0, short[1])))
    tiles = np.lib.stride_tricks.sliding_window_view(image, tile, (2, 3))[:, :, :: steps[0], :: steps[1]]
    pixels = _both(down.input, tiles, across.input)
    weights = _both(down.kernel, case.w, across.kernel)
    products = np.einsum("ncijhw,ochw->noijhw", pixels, weights)
    outputs = _both(down.output, products, across.output)
    whole = outputs.swapaxes(3, 4).reshape(
        *outputs.shape[:2], *(a * b for a, b in zip(number, steps, strict=True))
    )
    y = whole[..., : out[0], : out[1]]
    channels = case.spec.in_channels
    together = f", and the {channels} channels are summed" * (channels > 1)
    used, counted = products.size * channels, case.spec.macs
    stages = (
        Stage("Input and filters", f"{shape_text(out)} outputs", case.panels),
        Stage(
            "The matrices",
            f"of F({m}, {kernel[1]}), by the points 0, 1, -1, ...: B for pixels, G weights, A products",
            (
                matrix("B^T", _floats(across.input)),
                matrix("G", _floats(across.kernel)),
                matrix("A^T", _floats(across.output)),
            ),
        ),
        Stage(
            "Tiles",
            f"{shape_text(number)} tiles of {shape_text(tile)} pixels, {steps[1]} apart: neighbours "
            f"share {kernel[1] - 1}; here the first",
            planes("d", tiles[:1, :, 0, 0], "image", "channel"),
        ),
        Stage("Pixels transformed", "B^T d B: sums and differences of pixels", _first("B^T d B", pixels)),
        Stage(
            "Filters transformed",
            "G g G^T, once for all tiles and images",
            planes("G g G^T", weights, "filter", "channel"),
        ),
        Stage(
            "Multiplied",
            f"place by place{together}: {prod(tile)} products for the {prod(steps)} outputs of a tile, which "
            f"need {prod(steps) * prod(kernel)} by the definition",
            _first("M", products, "filter"),
        ),
        Stage(
            "Transformed back",
            f"A^T M A: the {shape_text(steps)} outputs of the tile",
            _first("A^T M A", outputs, "filter"),
        ),
        Stage("All tiles", "side by side, and cut to the output", planes("y", y, "image", "channel")),
    )
    count = (
        f"{count_text(used)} multiplications of pixels by weights, {count_text(counted)} by the definition "
        f"({counted / used:.3g} times as many)"
    )
    return Steps("winograd", f"{case.text}, F({m}, {kernel[1]})", stages, count, case.output(y))


def _floats(rows: Matrix) -> Array:
    return np.array([[float(value) for value in row] for row in rows])


def _both(down: Matrix, values: Array, across: Matrix) -> Array:
    """Each matrix of the last two axes, times ``down`` from the left and ``across`` from the right."""
    found: Array = _floats(down) @ values @ _floats(across).T
    return found


def _first(name: str, values: Array, axis: str = "channel") -> tuple[Panel, ...]:
    """The first tile of the first image."""
    return planes(name, values[:1, :, 0, 0], "image", axis)
