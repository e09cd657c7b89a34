"""Interpolation: a product per tap and their sum, for each output element."""

from __future__ import annotations

from math import ceil

from archcost.cost.rules.tables import made, table, without_macs
from archcost.trace.graph import Op


def _antialiased(op: Op) -> int:
    # A pass per axis; the filter widens with the scale where the image is reduced.
    radius = 2 if "bicubic" in op.name else 1
    height: int
    width: int
    height, width = op.args[0].shape[-2:]
    rows, columns = op.outputs[0].shape[-2:]
    taps_x = 2 * ceil(radius * max(width / columns, 1)) + 1
    taps_y = 2 * ceil(radius * max(height / rows, 1)) + 1
    planes = made(op) // (rows * columns)
    return planes * columns * (height * (2 * taps_x - 1) + rows * (2 * taps_y - 1))


def _grid_sample(op: Op) -> int:
    axes = len(op.args[0].shape) - 2
    mode = op.args[2] if len(op.args) > 2 else 0
    taps = 1 if mode == 1 else 16 if mode == 2 else 2**axes
    return (2 * taps - 1) * made(op)


without_macs(
    "resize",
    {
        "upsample_linear1d": lambda op: (2 * 2 - 1) * made(op),
        "upsample_bilinear2d": lambda op: (2 * 4 - 1) * made(op),
        "upsample_trilinear3d": lambda op: (2 * 8 - 1) * made(op),
        "upsample_bicubic2d": lambda op: (2 * 16 - 1) * made(op),
        "upsample_nearest{1,2,3}d _upsample_nearest_exact{1,2,3}d": lambda op: 0,
        "_upsample_{bilinear,bicubic}2d_aa": _antialiased,
        "grid_sampler_{2d,3d} cudnn_grid_sampler _grid_sampler_2d_cpu_fallback": _grid_sample,
    },
)
table("matmul", {"{,cudnn_}affine_grid_generator": lambda op: (made(op) * (op.outputs[0].shape[-1] + 1), 0)})
