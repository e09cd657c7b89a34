"""torchvision's own operators."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, everything, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments, named


@field_rule("torchvision.deform_conv2d", slides=True)
def deform_conv2d(op: Op, see: See) -> Intervals | None:
    """Deformable convolution: the sampled pixels depend on the offsets' values, so the whole plane counts."""
    given = arguments(op)
    out = op.outputs[0].shape
    x, *beside = (see(given.get(name)) for name in ("input", "offset", "mask"))
    kernel = (see(given.get(name)) for name in ("weight", "bias"))
    plane = x and x.reduce([1, 2, 3], op.index)
    own = [seen and seen.reduce([1], op.index) for seen in beside]
    return union([plane, *own, *(seen and seen.everything(out, op.index) for seen in kernel)], out)


@field_rule(*named("nms {,ps_}roi_{align,pool}", "torchvision"))
def of_boxes(op: Op, see: See) -> list[Intervals | None]:
    """Which pixels or boxes are read depends on the values of the boxes."""
    return [everything(op, see, ref.shape) for ref in op.outputs]
