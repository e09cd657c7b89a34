"""Chains of convolutions on paper, and a rule that begins with random kernels."""

import torch

from archcost.rewriting.carry import factored
from archcost.rewriting.plan.building import built
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Factorisation
from archcost.spec import ConvSpec


def conv(i, o, k, *, size=(40, 40), **more):
    return ConvSpec(i, o, k, input_size=size, bias=more.pop("bias", False), **more)


def drawn(specs):
    return [
        torch.randn(s.out_channels, s.in_channels // s.groups, *s.kernel_size, dtype=torch.float64)
        for s in specs
    ]


class Given(Factorisation):
    """Begins with random kernels."""

    name, change, break_even = "given", "", ""

    def refusal(self, subject): ...
    def options(self, subject, ratio): ...
    def replacement(self, subject, **options): ...
    def factors(self, kernel, replacement, moments):
        made = []
        for one in replacement.convs:
            s = one.spec
            o, i = (s.in_channels, s.out_channels) if s.transposed else (s.out_channels, s.in_channels)
            made.append(torch.randn(o, i // s.groups, *s.kernel_size, dtype=torch.float64))
        return made


def new_layer(old, steps, moments=None, **more):
    replacement = Replacement({"layer": tuple(steps)})
    pairs = factored(Given(), old, replacement, moments, **more)
    return built(replacement.chain, old, pairs, {}), pairs
