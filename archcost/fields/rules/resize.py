"""Interpolation, by its exact taps: those whose weight is zero are not seen."""

from __future__ import annotations

from archcost.fields.intervals import Intervals, union
from archcost.fields.registry import See, field_rule
from archcost.fields.taps import Taps, antialiased, resize
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

_MODES = {
    "upsample_nearest": "nearest",
    "_upsample_nearest_exact": "nearest-exact",
    "upsample_linear": "linear",
    "upsample_bilinear": "linear",
    "upsample_trilinear": "linear",
    "upsample_bicubic": "cubic",
}


def _scales(op: Op, axes: int) -> list[float | None]:
    given = arguments(op)
    factors = given.get("scale_factors")
    if factors is not None:
        return [float(f) for f in factors]
    names = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}[axes]
    return [given.get(name) for name in names]


@field_rule(
    *(f"aten.{prefix}{n}d" for prefix in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)),
    *("aten.upsample_linear1d", "aten.upsample_bilinear2d", "aten.upsample_trilinear3d"),
    "aten.upsample_bicubic2d",
)
def interpolate(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    name = op.base.removeprefix("aten.")
    mode, axes = _MODES[name[:-2]], int(name[-2])
    corners = bool(arguments(op).get("align_corners", False))
    first = x.rank - axes
    out = op.outputs[0].shape
    taps: dict[int, Taps] = {}
    for i, scale in enumerate(_scales(op, axes)):
        n, m = x.shape[first + i], out[first + i]
        if n != m or (scale not in (None, 1.0) and mode != "nearest"):
            taps[first + i] = resize(n, m, mode, corners, scale)
    return x.windows(taps) if taps else x


@field_rule("aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa")
def interpolate_antialiased(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    radius = 2.0 if "bicubic" in op.name else 1.0
    corners = bool(arguments(op).get("align_corners", False))
    out = op.outputs[0].shape
    taps = {
        2 + i: antialiased(x.shape[2 + i], out[2 + i], radius, corners, scale)
        for i, scale in enumerate(_scales(op, 2))
    }
    return x.windows(taps)


@field_rule("aten.grid_sampler_2d", "aten.grid_sampler_3d", "aten.cudnn_grid_sampler", "aten.grid_sampler")
def grid_sample(op: Op, see: See) -> Intervals | None:
    """Which pixels are sampled depends on the grid's values: all of them, and the grid at its place."""
    x, grid = see(op.args[0]), see(op.args[1])
    out = op.outputs[0].shape
    parts = []
    if x is not None:
        axes = x.rank - 2
        parts.append(x.reduce(range(2, 2 + axes), op.index).expand(out))
    if grid is not None:
        # (N, *positions, 2) to (N, 1, *positions).
        parts.append(grid.reduce([-1], op.index, keepdim=False).unsqueeze(1).expand(out))
    return union(parts, out)


@field_rule("aten.affine_grid_generator")
def affine_grid(op: Op, see: See) -> Intervals | None:
    theta = see(op.args[0])
    return None if theta is None else theta.everything(op.outputs[0].shape, op.index)
