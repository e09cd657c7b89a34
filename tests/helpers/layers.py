"""Layers on paper, and what a rule says of them."""

from archcost import ConvSpec
from archcost.rewriting.rule import get
from archcost.rewriting.survey.survey import Subject

FACTORING = ["small_kernels", "asymmetric", "bottleneck", "separable"]


def conv(ins, outs, kernel, size=(56, 56), **more):
    """On paper; padded so that without stride the size stays."""
    axes = len(size)
    kernel = (kernel,) * axes if isinstance(kernel, int) else kernel
    dilation = more.get("dilation", 1)
    padding = more.pop("padding", [dilation * (k // 2) for k in kernel])
    return ConvSpec(ins, outs, kernel, padding=padding, input_size=size, **more)


def subject(spec):
    return Subject("layer", ("layer",), "Conv2d", (spec,), None, (), None)


def refusal(name, spec):
    why = get(name).refusal(subject(spec))
    return None if why is None else why.reason


def planned(name, spec, **options):
    return get(name).replacement(subject(spec), **options)
