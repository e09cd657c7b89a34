"""Random layers under every rule: the chain is one convolution with the composed kernel, border included."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from archcost.errors import InputError
from archcost.merging.chain import chain_field, resized
from archcost.merging.compose import apart, composed
from archcost.nn.like import ConvLike
from archcost.rewriting.plan.building import built
from archcost.rewriting.rule import get
from archcost.rewriting.survey.survey import Subject
from archcost.weights.moments import Moments

RULES = ("small_kernels", "asymmetric", "bottleneck", "separable")
MODES = ("zeros", "reflect", "replicate", "circular")
KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TURNED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SEEDS = [*range(10), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(10, 60))]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def close(there, wanted):
    torch.testing.assert_close(there, wanted, rtol=0, atol=1e-10 * (1 + float(wanted.abs().max())))


def a_layer(draw):
    """Any convolution, in float64, with an input size at which it has a few outputs."""
    axes = draw.choice((1, 2, 2, 2, 3))
    groups = draw.choice((1, 1, 1, 2, 3))
    ins, outs = groups * draw.randint(1, 5), groups * draw.randint(1, 5)
    if draw.random() < 0.15:
        ins = outs = groups = 4
        outs *= draw.choice((1, 2))
    most = {1: 11, 2: 7, 3: 4}[axes]
    kernel = [draw.randint(1, most) for _ in range(axes)]
    if draw.random() < 0.5:
        kernel = [draw.choice((3, 5, 7)) if axes < 3 else draw.choice((3, 5))] * axes
    stride = [draw.choice((1, 1, 2, 3)) for _ in range(axes)]
    dilation = [draw.choice((1, 1, 2, 3)) for _ in range(axes)]
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [e + draw.randint(0, 4) for e in extent]
    padding = [draw.randint(0, e // 2) for e in extent]
    if draw.random() < 0.15:
        padding, stride = "same", 1
    layer = KINDS[axes](
        *(ins, outs, kernel, stride, padding, dilation, groups),
        bias=draw.random() < 0.7,
        padding_mode=draw.choice(MODES),
        dtype=torch.float64,
    )
    return layer, size


def a_transposed_layer(draw):
    axes = draw.choice((1, 2, 3))
    groups = draw.choice((1, 2))
    kernel = [draw.randint(1, 4) for _ in range(axes)]
    stride = [draw.randint(1, 3) for _ in range(axes)]
    layer = TURNED[axes](
        *(groups * draw.randint(2, 4), groups * draw.randint(2, 4), kernel, stride),
        padding=[draw.randint(0, (k - 1) // 2) for k in kernel],
        output_padding=[draw.randint(0, s - 1) for s in stride],
        groups=groups,
        bias=draw.random() < 0.7,
        dtype=torch.float64,
    )
    return layer, [draw.randint(2, 5) for _ in range(axes)]


def subject_of(layer, size):
    spec = replace(ConvLike(layer).spec(size), bias=layer.bias is not None)
    return Subject("layer", ("layer",), type(layer).__name__, (spec,), None, (), None)


def with_weights(rule, layer, replacement, moments=None):
    """The chain as modules, with its first kernels, and those kernels."""
    weight = layer.weight.detach()
    kernels = rule.factors(apart(weight, layer.groups), replacement, moments)
    biases = [None] * (len(kernels) - 1) + [layer.bias]
    return built(replacement.chain, layer, list(zip(kernels, biases, strict=True)), {}), kernels


def as_one(layer, kernel, x):
    """What a convolution with this kernel, at every pixel of its extent, makes of the layer's input."""
    spec = ConvLike(layer).spec(x.shape[2:])
    mode = "constant" if spec.padding_mode == "zeros" else spec.padding_mode
    x = F.pad(x, [side for pair in reversed(spec.padding) for side in pair], mode=mode)
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(spec.input_size)]
    return function(x, kernel.flatten(0, 1), layer.bias, layer.stride, groups=layer.groups)


def random_moments(layer, draw):
    groups, shape = layer.groups, layer.weight.shape[1:]
    size = shape.numel()
    many = torch.randn(groups, size, draw.choice((size // 2 + 1, 3 * size)), dtype=torch.float64)
    return Moments(100, tuple(shape), torch.zeros(groups, size).double(), many @ many.mT / many.shape[2])


def ways(rule, subject, draw):
    """The choices that a rule offers, with a full one where it can be had."""
    yield from rule.options(subject, draw.choice((0.2, 0.5, 1.0)))
    yield {}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_is_one_convolution_with_the_composed_kernel(name, seed):
    draw = random.Random(f"{name} {seed}")
    torch.manual_seed(seed)
    rule, fits = get(name), 0
    while fits < 2:
        layer, size = a_layer(draw)
        subject = subject_of(layer, size)
        if rule.unfit(subject.spec) is not None:
            continue
        fits += 1
        for options in ways(rule, subject, draw):
            if options.get("padding") == "each":
                continue
            replacement = rule.replacement(subject, **options)
            moments = random_moments(layer, draw) if draw.random() < 0.3 else None
            module, kernels = with_weights(rule, layer, replacement, moments)
            kernel = composed(kernels, [conv.spec for conv in replacement.convs], layer.groups)
            assert tuple(kernel.shape[3:]) == subject.spec.extent, (layer, options)
            for extra in (0, draw.randint(1, 5)):
                x = torch.randn(2, layer.in_channels, *(n + extra for n in size), dtype=torch.float64)
                wanted = as_one(layer, kernel, x)
                there = module(x)
                assert there.shape == layer(x).shape, (layer, options)
                close(there, wanted)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", SEEDS)
def test_with_nothing_left_out_the_layer_itself_comes_back(name, seed):
    draw = random.Random(f"full {name} {seed}")
    torch.manual_seed(seed)
    rule = get(name)
    while True:
        layer, size = a_layer(draw)
        subject = subject_of(layer, size)
        if rule.unfit(subject.spec) is None:
            break
    for options in rule.lossless(subject.spec):
        replacement = rule.replacement(subject, **options)
        assert replacement.exact, (layer, options)
        moments = random_moments(layer, draw) if draw.random() < 0.3 else None
        module, _ = with_weights(rule, layer, replacement, moments)
        x = torch.randn(2, layer.in_channels, *size, dtype=torch.float64)
        wanted = layer(x)
        close(module(x), wanted)
        carried = rule.carry({"layer": layer}, replacement)["layer"]
        close(built(replacement.chain, layer, carried, {})(x), wanted)


@pytest.mark.parametrize("name", ["small_kernels", "asymmetric"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_field_and_the_size_are_those_of_the_layer(name, seed):
    draw = random.Random(f"field {name} {seed}")
    rule, fits = get(name), 0
    while fits < 10:
        layer, size = a_layer(draw)
        subject = subject_of(layer, size)
        if rule.unfit(subject.spec) is not None:
            continue
        fits += 1
        for options in rule.options(subject, 0.5):
            chain = rule.replacement(subject, **options).chain
            assert chain_field(chain) == subject.spec.receptive_field(), (subject.spec, options)
            for extra in range(8):
                at = [n + draw.randint(0, extra) for n in size]
                whole = replace(subject.spec, input_size=at)
                assert resized(chain, at, 1)[-1].spec.output_size == whole.output_size


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_chain_needs_a_larger_input_than_the_layer(name, seed):
    draw = random.Random(f"small {name} {seed}")
    rule = get(name)
    for _ in range(20):
        layer, size = a_layer(draw)
        subject = subject_of(layer, size)
        if rule.unfit(subject.spec) is not None:
            continue
        least = [
            max(e - low - high, 1)
            for e, (low, high) in zip(subject.spec.extent, subject.spec.padding, strict=True)
        ]
        chain = rule.replacement(subject).chain
        try:
            whole = replace(subject.spec, input_size=least)
        except InputError:
            continue
        assert resized(chain, least, 1)[-1].spec.output_size == whole.output_size


@pytest.mark.parametrize("name", ["asymmetric", "bottleneck", "separable"])
@pytest.mark.parametrize("seed", SEEDS)
def test_transposed_layers_come_back_whole_and_in_shape(name, seed):
    draw = random.Random(f"transposed {name} {seed}")
    torch.manual_seed(seed)
    rule = get(name)
    while True:
        layer, size = a_transposed_layer(draw)
        subject = subject_of(layer, size)
        if rule.unfit(subject.spec) is None:
            break
    x = torch.randn(2, layer.in_channels, *size, dtype=torch.float64)
    wanted = layer(x)
    for options in rule.lossless(subject.spec):
        replacement = rule.replacement(subject, **options)
        module, _ = with_weights(rule, layer, replacement)
        close(module(x), wanted)
        carried = rule.carry({"layer": layer}, replacement)["layer"]
        close(built(replacement.chain, layer, carried, {})(x), wanted)
    for options in rule.options(subject, 0.5):
        module, _ = with_weights(rule, layer, rule.replacement(subject, **options))
        larger = torch.randn(1, layer.in_channels, *(n + 3 for n in size), dtype=torch.float64)
        assert module(larger).shape == layer(larger).shape
