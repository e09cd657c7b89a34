"""Interpolation, by its exact taps: those whose weight is zero are not seen."""

from __future__ import annotations

from collections.abc import Iterator

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.intervals.taps import antialiased, nearest, resize
from archcost.fields.registry import See, field_rule
from archcost.fields.rules.tables import of_first, shape_of
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

# Up to this many rows and columns PyTorch's nearest neighbour in two dimensions has a kernel of its
# own: in single precision, and copying or doubling exactly whatever the scale says.
_SMALL = 128


def _resized(x: Intervals, op: Op) -> Iterator[tuple[int, int, int, float | None]]:
    """The last dimensions, each with its size before and after, and with the scale where one was given."""
    given, axes = arguments(op), int(next(c for c in op.base if c.isdigit()))
    names = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}[axes]
    factors = given.get("scale_factors")
    scales = [given.get(name) for name in names] if factors is None else [float(f) for f in factors]
    for dim, scale in enumerate(scales, x.rank - axes):
        yield dim, x.shape[dim], shape_of(op)[dim], scale


@of_first("{upsample_nearest,_upsample_nearest_exact}{1,2,3}d")
def interpolate_nearest(x: Intervals, op: Op) -> Intervals:
    exact, each = "exact" in op.base, list(_resized(x, op))
    small = len(each) == 2 and sum(m for _, _, m, _ in each) <= _SMALL
    double = str(op.args[0].dtype) == "torch.float64" and not small
    taps = {}
    for dim, n, m, scale in each:
        if small and not exact and m in (n, 2 * n):
            scale = None
        if n != m or scale not in (None, 1.0):
            taps[dim] = nearest(n, m, exact, double, scale)
    return x.windows(taps) if taps else x


@of_first("upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d")
def interpolate(x: Intervals, op: Op) -> Intervals:
    cubic, corners = "cubic" in op.base, bool(arguments(op).get("align_corners", False))
    taps = {
        dim: resize(n, m, cubic, corners, scale)
        for dim, n, m, scale in _resized(x, op)
        # Linear interpolation copies where the size stays, whatever the scale says.
        if n != m or (cubic and scale not in (None, 1.0))
    }
    return x.windows(taps) if taps else x


@of_first("_upsample_{bilinear,bicubic}2d_aa")
def interpolate_antialiased(x: Intervals, op: Op) -> Intervals:
    radius, corners = 2 if "bicubic" in op.name else 1, bool(arguments(op).get("align_corners", False))
    taps = {dim: antialiased(n, m, radius, corners, scale) for dim, n, m, scale in _resized(x, op) if n != m}
    return x.windows(taps) if taps else x


@field_rule("aten.grid_sampler_2d", "aten.grid_sampler_3d", "aten.cudnn_grid_sampler", "aten.grid_sampler")
def grid_sample(op: Op, see: See) -> Intervals | None:
    """Which pixels are sampled depends on the grid's values: all of them, and the grid at its place."""
    x, grid, out = see(op.args[0]), see(op.args[1]), shape_of(op)
    plane = x and x.reduce(range(2, x.rank), op.index)
    # (N, *positions, 2) to (N, 1, *positions).
    own = grid and grid.reduce([-1], op.index, keepdim=False).unsqueeze(1)
    return union([plane, own], out)


@of_first("affine_grid_generator")
def affine_grid(theta: Intervals, op: Op) -> Intervals:
    return theta.everything(shape_of(op), op.index)
