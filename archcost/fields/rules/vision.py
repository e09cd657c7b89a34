"""torchvision's own operators."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, everything, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


@field_rule("torchvision.deform_conv2d", slides=True)
def deform_conv2d(op: Op, see: See) -> Intervals | None:
    """Where it samples depends on the offsets' values: all of the plane, and the offsets at its place."""
    given = arguments(op)
    out = op.outputs[0].shape
    x = see(given["input"])
    parts: list[Intervals | None] = []
    if x is not None:
        parts.append(x.reduce([1, 2, 3], op.index).expand(out))
    for name in ("offset", "mask"):
        seen = see(given.get(name))
        parts.append(seen and seen.reduce([1], op.index))
    for name in ("weight", "bias"):
        seen = see(given.get(name))
        parts.append(seen and seen.everything(out, op.index))
    return union(parts, out)


@field_rule(
    *("torchvision.nms", "torchvision.roi_align", "torchvision.roi_pool", "torchvision.ps_roi_align"),
    "torchvision.ps_roi_pool",
)
def of_boxes(op: Op, see: See) -> list[Intervals | None]:
    """Which pixels or boxes are read depends on the values of the boxes."""
    return [everything(op, see, ref.shape) for ref in op.outputs]
