"""torchvision's own operators."""

from __future__ import annotations

from archcost.cost.registry import Count, counting_rule
from archcost.cost.rules.convolution import convolution_macs
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

_BILINEAR = 7


@counting_rule("torchvision.deform_conv2d", kind="convolution")
def deform_conv2d(op: Op) -> tuple[int, int]:
    """The convolution itself, and beside it a bilinear sample for each tap of each input channel."""
    given = arguments(op)
    x, weight, out = given["input"], given["weight"], op.outputs[0]
    macs = convolution_macs(x.shape, weight.shape, out.shape, False)
    taps = weight.shape[2] * weight.shape[3]
    samples = x.shape[0] * x.shape[1] * taps * out.shape[2] * out.shape[3]
    modulated = 1 if given.get("use_mask") else 0
    return macs, samples * (_BILINEAR + modulated) + out.numel


@counting_rule("torchvision.nms", kind="other")
def nms(op: Op) -> Count:
    return Count(0, None, "other", "how many pairs of boxes are compared depends on their values")


@counting_rule("torchvision.roi_align", "torchvision.ps_roi_align", kind="resize")
def roi_align(op: Op) -> Count:
    ratio = arguments(op)["sampling_ratio"]
    if ratio <= 0:
        return Count(
            0, None, "resize", "how many points are sampled depends on the boxes (sampling_ratio=-1)"
        )
    return Count(0, op.outputs[0].numel * ratio * ratio * (_BILINEAR + 1), "resize")


@counting_rule("torchvision.roi_pool", "torchvision.ps_roi_pool", kind="pool")
def roi_pool(op: Op) -> Count:
    return Count(0, None, "pool", "how large the pooled windows are depends on the boxes")
