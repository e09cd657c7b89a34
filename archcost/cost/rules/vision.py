"""torchvision's own operators."""

from __future__ import annotations

from archcost.cost.registry import Count
from archcost.cost.rules.convolution import convolution_macs
from archcost.cost.rules.tables import made, table
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

_BILINEAR = 7
_BY_BOXES = "the number of sampled points depends on the boxes (sampling_ratio=-1)"
_PAIRS = Count(0, None, "other", "the number of compared boxes depends on their values")
_WINDOWS = Count(0, None, "pool", "the size of the pooled windows depends on the boxes")


def _deform_conv2d(op: Op) -> tuple[int, int]:
    """The MACs of the convolution, and a bilinear sample per tap and input channel as other operations."""
    given = arguments(op)
    x, weight, out = given["input"], given["weight"], op.outputs[0]
    macs = convolution_macs(x.shape, weight.shape, out.shape, False)
    taps = weight.shape[2] * weight.shape[3]
    samples = x.shape[0] * x.shape[1] * taps * out.shape[2] * out.shape[3]
    modulated = 1 if given.get("use_mask") else 0
    return macs, samples * (_BILINEAR + modulated) + made(op)


def _roi_align(op: Op) -> Count:
    ratio = arguments(op)["sampling_ratio"]
    if ratio <= 0:
        return Count(0, None, "resize", _BY_BOXES)
    return Count(0, made(op) * ratio * ratio * (_BILINEAR + 1), "resize")


table("convolution", {"deform_conv2d": _deform_conv2d}, "torchvision")
table("other", {"nms": lambda op: _PAIRS}, "torchvision")
table("resize", {"{,ps_}roi_align": _roi_align}, "torchvision")
table("pool", {"{,ps_}roi_pool": lambda op: _WINDOWS}, "torchvision")
