"""Interpolation, by its exact taps: those whose weight is zero are not seen."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.intervals.taps import Taps, antialiased, nearest, resize
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

# Up to this many rows and columns the framework's nearest neighbour in two dimensions has a kernel of its
# own: in single precision, and copying or doubling exactly whatever the scale says.
_SMALL = 128


def _scales(op: Op, axes: int) -> list[float | None]:
    given = arguments(op)
    factors = given.get("scale_factors")
    if factors is not None:
        return [float(f) for f in factors]
    names = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}[axes]
    return [given.get(name) for name in names]


@field_rule(
    *(f"aten.{name}{n}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3))
)
def interpolate_nearest(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    exact, axes = "exact" in op.base, int(op.base[-2])
    first, out = x.rank - axes, op.outputs[0].shape
    small = axes == 2 and sum(out[first:]) <= _SMALL
    double = str(op.args[0].dtype) == "torch.float64" and not small
    taps: dict[int, Taps] = {}
    for dim, scale in enumerate(_scales(op, axes), first):
        n, m = x.shape[dim], out[dim]
        if small and not exact and m in (n, 2 * n):
            scale = None
        if n != m or scale not in (None, 1.0):
            taps[dim] = nearest(n, m, exact, double, scale)
    return x.windows(taps) if taps else x


@field_rule(
    *("aten.upsample_linear1d", "aten.upsample_bilinear2d", "aten.upsample_trilinear3d"),
    "aten.upsample_bicubic2d",
)
def interpolate(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    cubic, axes = "cubic" in op.base, int(op.base[-2])
    corners = bool(arguments(op).get("align_corners", False))
    first, out = x.rank - axes, op.outputs[0].shape
    taps: dict[int, Taps] = {}
    for dim, scale in enumerate(_scales(op, axes), first):
        n, m = x.shape[dim], out[dim]
        # Linear interpolation copies where the size stays, whatever the scale says.
        if n != m or (cubic and scale not in (None, 1.0)):
            taps[dim] = resize(n, m, cubic, corners, scale)
    return x.windows(taps) if taps else x


@field_rule("aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa")
def interpolate_antialiased(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    radius = 2 if "bicubic" in op.name else 1
    corners = bool(arguments(op).get("align_corners", False))
    out = op.outputs[0].shape
    taps = {
        dim: antialiased(x.shape[dim], out[dim], radius, corners, scale)
        for dim, scale in enumerate(_scales(op, 2), 2)
        if x.shape[dim] != out[dim]
    }
    return x.windows(taps) if taps else x


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
