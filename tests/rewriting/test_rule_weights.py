"""Weights of new layers: the singular value decomposition without data, nearer outputs with it."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from archcost import RewriteError
from archcost.merging.chain import Activation, Conv, chain_field
from archcost.merging.compose import composed
from archcost.rewriting.plan.building import built
from archcost.rewriting.rule import get
from archcost.weights.moments import Moments
from helpers.layers import FACTORING, conv, planned, subject


def kernel_of(spec, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (
        spec.groups,
        spec.out_channels // spec.groups,
        spec.in_channels // spec.groups,
        *spec.kernel_size,
    )
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def factored(name, spec, kernel, moments=None, **options):
    """The chain's specs, kernels, and the kernel that they compose."""
    replacement = planned(name, spec, **options)
    kernels = get(name).factors(kernel, replacement, moments)
    specs = [one.spec for one in replacement.convs]
    return replacement, kernels, composed(kernels, specs, spec.groups)


SIZES = [
    ("small_kernels", {}, "middle", (2, 4, 8, 16, 32)),
    ("asymmetric", {"first": "height"}, "rank", (1, 4, 8, 20, 30)),
    ("asymmetric", {"first": "width"}, "rank", (1, 4, 8, 20, 30)),
    ("bottleneck", {"form": "in"}, "rank_in", (1, 2, 4, 6)),
    ("bottleneck", {"form": "out"}, "rank_out", (1, 2, 4, 7)),
    ("separable", {"order": "depthwise-first"}, "terms", (1, 2, 4, 8)),
    ("separable", {"order": "pointwise-first"}, "terms", (1, 2, 4, 6)),
]


@pytest.mark.parametrize(("name", "how", "option", "sizes"), SIZES)
def test_the_error_falls_as_the_rank_grows(name, how, option, sizes):
    spec = conv(6, 8, 5)
    kernel = kernel_of(spec)
    errors = [
        float((factored(name, spec, kernel, **how, **{option: size})[2] - kernel).norm() / kernel.norm())
        for size in sizes
    ]
    assert errors[0] < 1
    assert all(later < sooner for sooner, later in pairwise(errors))


@pytest.mark.parametrize(("name", "how", "option", "sizes"), SIZES[1:])
def test_without_data_it_is_the_singular_value_decomposition(name, how, option, sizes):
    """Eckart and Young: no other kernel of that rank is nearer."""
    spec = conv(6, 8, 5)
    kernel = kernel_of(spec)[0]
    unfolded = {
        "rank": kernel.permute((0, 3, 1, 2) if how.get("first") == "height" else (0, 2, 1, 3)).reshape(
            40, 30
        ),
        "rank_in": kernel.transpose(0, 1).reshape(6, -1),
        "rank_out": kernel.reshape(8, -1),
        "terms": kernel.transpose(0, 1).reshape(6, 8, 25)
        if how.get("order") == "depthwise-first"
        else kernel.reshape(8, 6, 25),
    }[option]
    lost = torch.linalg.svdvals(unfolded)[..., sizes[1] :].norm()
    found = factored(name, spec, kernel[None], **how, **{option: sizes[1]})[2]
    assert float((found - kernel).norm()) == pytest.approx(float(lost), rel=1e-9)


def data_for(spec, seed=1):
    """Patches as images have them: neighbours alike, channels alike; and their moments."""
    generator = torch.Generator().manual_seed(seed)
    ins = spec.in_channels // spec.groups
    mixing = torch.randn(ins, ins, dtype=torch.float64, generator=generator).softmax(1)
    many = torch.randn(64, ins, 20, 20, dtype=torch.float64, generator=generator)
    many = F.avg_pool2d(torch.einsum("bihw,ji->bjhw", many, mixing), 3, 1)
    patches = F.unfold(many, spec.kernel_size).transpose(1, 2).flatten(0, 1)
    patches = patches - patches.mean(0)
    covariance = (patches.T @ patches / len(patches))[None].repeat(spec.groups, 1, 1)
    shape = (ins, *spec.kernel_size)
    return Moments(len(patches), shape, torch.zeros(spec.groups, covariance.shape[1]).double(), covariance)


def output_error(found, kernel, moments):
    left = (found - kernel).flatten(2)
    return float(torch.einsum("god,gde,goe->", left, moments.covariance, left).sqrt())


@pytest.mark.parametrize(
    ("name", "how", "option", "sizes"), [*SIZES, ("bottleneck", {"rank_out": 4}, "rank_in", (1, 3))]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_with_data_the_output_is_nearer_though_the_kernel_is_not(name, how, option, sizes, groups):
    spec = conv(6 * groups, 8 * groups, 5, groups=groups)
    kernel, moments = kernel_of(spec), data_for(spec)
    size = sizes[1] * (groups if name == "small_kernels" else 1)
    with_data = factored(name, spec, kernel, moments, **how, **{option: size})[2]
    without = factored(name, spec, kernel, **how, **{option: size})[2]
    assert output_error(with_data, kernel, moments) < 0.9 * output_error(without, kernel, moments)


def test_out_under_the_covariance_is_the_reduced_rank_regression():
    spec = conv(6, 8, 5)
    kernel, moments = kernel_of(spec), data_for(spec)
    values, vectors = torch.linalg.eigh(moments.covariance[0])
    root = vectors * values.clamp(min=0).sqrt()
    least = torch.linalg.svdvals(kernel[0].flatten(1) @ root)[3:].norm()
    found = factored("bottleneck", spec, kernel, moments, form="out", rank_out=3)[2]
    assert output_error(found, kernel, moments) == pytest.approx(float(least), rel=1e-6)


@pytest.mark.parametrize(("name", "how", "option", "sizes"), SIZES)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_covariances_without_rank_or_size_do_no_harm(name, how, option, sizes, scale):
    spec = conv(6, 8, 5)
    one = torch.ones(150, 1, dtype=torch.float64)
    moments = Moments(1, (6, 5, 5), torch.zeros(1, 150).double(), scale * (one @ one.T)[None])
    kernel = kernel_of(spec)
    found = factored(name, spec, kernel, moments, **how, **{option: sizes[-1]})[2]
    assert found.isfinite().all()
    assert float((found - kernel).norm() / kernel.norm()) < 1.5


def test_channels_beyond_the_rank_of_the_kernel_change_nothing_and_can_learn():
    spec = conv(1, 2, 5)
    replacement, kernels, found = factored("small_kernels", spec, kernel_of(spec), middle=64)
    assert replacement.exact
    torch.testing.assert_close(found, kernel_of(spec), rtol=0, atol=1e-12)
    assert (kernels[0].flatten(1).norm(dim=1) > 0).all()


def test_factors_leave_the_random_numbers_alone():
    state = torch.get_rng_state()
    factored("small_kernels", conv(1, 2, 5), kernel_of(conv(1, 2, 5)), middle=64)
    assert torch.equal(state, torch.get_rng_state())


def shifted(kernels, shift):
    """Weights with which every activation but the last lets everything through, and the sum is as it was."""
    first, last = kernels
    behind = -shift * last.flatten(1).sum(1)
    return [(first, torch.full((len(first),), shift).double()), (last, behind)]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_an_activation_can_start_at_the_linear_composition(mode):
    spec = replace(conv(3, 4, 5, (9, 9)), padding_mode=mode, bias=False)
    layer = nn.Conv2d(3, 4, 5, padding=2, bias=False, padding_mode=mode, dtype=torch.float64)
    for name, options in (("small_kernels", {"middle": 6}), ("reduce_first", {"channels": 2})):
        active = planned(name, spec, activation="ReLU", **options)
        assert [type(step) for step in active.chain] == [Conv, Activation, Conv]
        assert all(one.spec.bias for one in active.convs)
        assert not active.exact
        kernels = get(name).factors(layer.weight.detach()[None], active, None)
        module = built(active.chain, layer, shifted(kernels, 100.0), {})
        linear = built(
            planned(name, spec, **options).chain, layer, [(kernel, None) for kernel in kernels], {}
        )
        x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
        torch.testing.assert_close(module(x), linear(x), rtol=0, atol=1e-11)


def test_padding_in_each_stage_is_exact_inside_and_wrong_at_the_border():
    for stride in (1, 2):
        spec = conv(4, 4, 7, (24, 24), stride=stride, bias=False)
        layer = nn.Conv2d(4, 4, 7, stride, 3, bias=False, dtype=torch.float64)
        modules = []
        for padding in ("first", "each"):
            chosen = planned("small_kernels", spec, middle=16, padding=padding)
            kernels = get("small_kernels").factors(layer.weight.detach()[None], chosen, None)
            modules.append(built(chosen.chain, layer, [(kernel, None) for kernel in kernels], {}))
        assert chain_field(chosen.chain) == spec.receptive_field()
        ring = 2 if stride == 1 else 1
        assert f"exact inside, inexact in the outer {ring} positions at each border" in chosen.note
        x = torch.randn(2, 4, 24, 24, dtype=torch.float64)
        right, each = (module(x) for module in modules)
        inner = (..., slice(ring, -ring), slice(ring, -ring))
        torch.testing.assert_close(each[inner], right[inner], rtol=0, atol=1e-12)
        assert (each - right).norm() > 0.01 * right.norm()
        assert chosen.macs < planned("small_kernels", spec, middle=16).macs


EACH_REFUSED = [
    conv(8, 8, 5, stride=2),
    conv(8, 8, 4),
    conv(8, 8, 5, padding=0),
    conv(8, 8, 5, padding_mode="reflect"),
    conv(8, 8, 5, padding=[(1, 2), (2, 2)]),
]


@pytest.mark.parametrize("spec", EACH_REFUSED)
def test_padding_in_each_stage_is_refused_where_it_does_not_add_up(spec):
    with pytest.raises(RewriteError, match="padding='each' needs symmetric padding"):
        planned("small_kernels", spec, padding="each")
    assert all("padding" not in options for options in get("small_kernels").options(subject(spec), 0.5))


def test_padding_in_each_stage_and_an_activation_do_not_go_together():
    with pytest.raises(RewriteError, match="a shift that zeros padded behind it do not have"):
        planned("small_kernels", conv(8, 8, 5), padding="each", activation="ReLU")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FACTORING[1:], "small_kernels"])
def test_large_layers_take_seconds(name):
    spec = conv(512, 512, 3, (14, 14)) if name != "small_kernels" else conv(256, 256, 5, (14, 14))
    kernel = kernel_of(spec)
    for options in get(name).options(subject(spec), 0.5):
        replacement = planned(name, spec, **options)
        start = time.process_time()
        get(name).factors(kernel, replacement, None)
        assert time.process_time() - start < 10


def test_large_matrices_are_nearly_as_near_as_their_singular_vectors(monkeypatch):
    from archcost.weights import lowrank

    spec = conv(48, 40, 5)
    kernel = kernel_of(spec) * torch.arange(1, 41).double().rsqrt()[None, :, None, None, None]
    wanted = factored("asymmetric", spec, kernel, rank=40)[2]
    monkeypatch.setattr(lowrank, "_EIGH_UP_TO", 64)
    calls = []
    original = lowrank._subspace
    monkeypatch.setattr(lowrank, "_subspace", lambda *a: calls.append(1) or original(*a))
    found = factored("asymmetric", spec, kernel, rank=40)[2]
    assert calls
    assert (found - kernel).norm() < 1.01 * (wanted - kernel).norm()
