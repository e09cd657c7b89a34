"""Interpolation: a product for each tap and the sums of them, an output element."""

from __future__ import annotations

from math import ceil

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op

_TAPS = {"linear1d": 2, "bilinear2d": 4, "trilinear3d": 8, "bicubic2d": 16}


@counting_rule(*(f"aten.upsample_{mode}" for mode in _TAPS), kind="resize")
def interpolate(op: Op) -> tuple[int, int]:
    taps = next(taps for mode, taps in _TAPS.items() if f"_{mode}" in op.name)
    return 0, (2 * taps - 1) * op.outputs[0].numel


@counting_rule(
    *(f"aten.{prefix}{n}d" for prefix in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)),
    kind="resize",
)
def nearest(op: Op) -> tuple[int, int]:
    return 0, 0


@counting_rule("aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa", kind="resize")
def antialiased(op: Op) -> tuple[int, int]:
    # Two passes, one an axis; the filter widens with the scale where it shrinks the image.
    radius = 2 if "bicubic" in op.name else 1
    (height, width), (rows, columns) = op.args[0].shape[-2:], op.outputs[0].shape[-2:]
    taps_x = 2 * ceil(radius * max(width / columns, 1)) + 1
    taps_y = 2 * ceil(radius * max(height / rows, 1)) + 1
    planes = op.outputs[0].numel // (rows * columns)
    return 0, planes * columns * (height * (2 * taps_x - 1) + rows * (2 * taps_y - 1))


@counting_rule(
    *("aten.grid_sampler_2d", "aten.grid_sampler_3d", "aten.cudnn_grid_sampler"),
    "aten._grid_sampler_2d_cpu_fallback",
    kind="resize",
)
def grid_sample(op: Op) -> tuple[int, int]:
    axes = len(op.args[0].shape) - 2
    mode = op.args[2] if len(op.args) > 2 else 0
    taps = 1 if mode == 1 else 16 if mode == 2 else 2**axes
    return 0, (2 * taps - 1) * op.outputs[0].numel


@counting_rule("aten.affine_grid_generator", "aten.cudnn_affine_grid_generator", kind="matmul")
def affine_grid(op: Op) -> tuple[int, int]:
    axes = op.outputs[0].shape[-1]
    return op.outputs[0].numel * (axes + 1), 0
