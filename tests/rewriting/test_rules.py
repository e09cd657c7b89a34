"""What each rule proposes, what it refuses and in which words, and what both cost on paper."""

import time
from dataclasses import replace
from itertools import pairwise
from math import ceil, floor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archcost
from archcost import ConvSpec, RewriteError
from archcost.merging.chain import Activation, Conv, chain_field
from archcost.merging.compose import composed
from archcost.rewriting.plan.building import built
from archcost.rewriting.rule import available, get
from archcost.rewriting.rules.stacking import stages
from archcost.rewriting.survey.survey import Subject, survey_of
from archcost.weights.moments import Moments

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


def test_the_rules_are_presented_in_their_order():
    there = [name for name in available() if name in (*FACTORING, "reduce_first")]
    assert there == [*FACTORING, "reduce_first"]


REFUSED = [
    ("small_kernels", conv(8, 8, 3), "its kernel of 3x3 is small already"),
    ("small_kernels", conv(8, 8, (3, 1)), "its kernel of 3x1 is small already"),
    ("small_kernels", conv(8, 8, 5, stride=3), "no stack of smaller kernels has the receptive field"),
    (
        "small_kernels",
        conv(3, 96, 4, stride=4, padding=0),
        "with a stride of 4x4 no stack of smaller kernels",
    ),
    ("small_kernels", conv(8, 8, 5, transposed=True), "it is transposed: its stride would come last"),
    ("small_kernels", conv(8, 8, 5, (2, 2), groups=8), "even its smallest form has 1.80 times the MACs"),
    ("asymmetric", conv(8, 8, 7, (99,)), "its kernel of 7 has a single axis: nothing to factor"),
    ("asymmetric", conv(8, 8, (7, 1)), "its kernel of 7x1 extends along fewer than two axes"),
    ("asymmetric", conv(8, 8, 1), "its kernel of 1x1 extends along fewer than two axes"),
    ("asymmetric", conv(1, 1, 2, padding=0), "even its smallest form has 1."),
    ("bottleneck", conv(8, 8, 5, groups=8), "it is depthwise: a group has a single input channel"),
    ("bottleneck", conv(1, 1, 5), "even its smallest form has 1."),
    ("bottleneck", conv(2, 2, 1), "even its smallest form has 1.00 times the MACs"),
    ("separable", conv(8, 16, 3, groups=8), "it is depthwise already"),
    ("separable", conv(8, 8, 1), "a 1x1 has a single tap: nothing to separate"),
    ("separable", conv(1, 1, 3), "even its smallest form has 1."),
    ("reduce_first", conv(8, 8, 1), "a 1x1 is itself what would be put first"),
    ("reduce_first", conv(8, 8, 3, groups=8), "it is depthwise"),
    ("reduce_first", conv(8, 8, 3, transposed=True), "it is transposed"),
]


@pytest.mark.parametrize(
    ("name", "spec", "words"), REFUSED, ids=lambda v: None if isinstance(v, ConvSpec) else v
)
def test_a_rule_says_why_it_does_not_apply(name, spec, words):
    assert words in refusal(name, spec)


@pytest.mark.parametrize("name", FACTORING)
def test_where_saving_is_refused_the_formula_is_said(name):
    spec = {
        "small_kernels": conv(8, 8, 5, (2, 2), groups=8),
        "asymmetric": conv(1, 1, 2, padding=0),
    }.get(name, conv(1, 1, 5))
    assert get(name).break_even in refusal(name, spec)


APPLIED = [
    (
        "small_kernels",
        [conv(8, 8, 5), conv(8, 8, 5, groups=8), conv(8, 8, 31, (999,)), conv(2, 4, 5, (9, 9, 9))],
    ),
    ("small_kernels", [conv(3, 64, 7, stride=2), conv(3, 64, 11, stride=4), conv(8, 8, (1, 7))]),
    (
        "asymmetric",
        [conv(8, 8, 3), conv(8, 8, 5, groups=8), conv(4, 4, 3, (9, 9, 9)), conv(8, 8, (1, 3, 3), (9, 9, 9))],
    ),
    ("asymmetric", [conv(8, 8, 4, transposed=True, stride=2)]),
    ("bottleneck", [conv(8, 8, 3), conv(64, 64, 1), conv(8, 8, 9, (99,)), conv(16, 16, 3, groups=2)]),
    ("bottleneck", [conv(1, 32, 5), conv(8, 8, 4, transposed=True, stride=2)]),
    ("separable", [conv(8, 8, 3), conv(8, 8, 9, (99,)), conv(16, 16, 3, groups=2), conv(8, 8, 3, (9, 9, 9))]),
]


@pytest.mark.parametrize(("name", "specs"), APPLIED)
def test_a_rule_applies_where_it_saves(name, specs):
    for spec in specs:
        assert refusal(name, spec) is None
        found = list(get(name).options(subject(spec), 0.9))
        assert found
        assert any(planned(name, spec, **options).macs < spec.macs for options in found)


STACKED = [
    (5, 1, [3, 3]),
    (7, 1, [3, 3, 3]),
    (9, 1, [3, 3, 3, 3]),
    (4, 1, [3, 2]),
    (6, 1, [3, 3, 2]),
    (5, 2, [3, 2]),
    (7, 2, [3, 3]),
    (11, 2, [3, 3, 3]),
    (4, 2, [2, 2]),
    (11, 4, [7, 2]),
    (7, 3, [4, 2]),
    (5, 3, [5]),
]


@pytest.mark.parametrize(("taps", "stride", "wanted"), STACKED)
def test_stages_are_recounted_behind_the_stride(taps, stride, wanted):
    assert [kernel for (kernel,) in stages(conv(4, 4, taps, (99,), stride=stride))] == wanted


def test_axes_are_stacked_by_themselves():
    chain = planned("small_kernels", conv(8, 8, (7, 3), stride=(1, 2)), middle=8).chain
    assert [step.spec.kernel_size for step in chain] == [(3, 3), (3, 1), (3, 1)]
    assert [step.spec.stride for step in chain] == [(1, 2), (1, 1), (1, 1)]


def test_dilation_is_kept_and_counts_with_the_stride():
    chain = planned("small_kernels", conv(8, 8, 5, dilation=3), middle=8).chain
    assert [step.spec.dilation for step in chain] == [(3, 3), (3, 3)]
    strided = conv(8, 8, 5, dilation=2, stride=2)
    chain = planned("small_kernels", strided, middle=8).chain
    assert [(step.spec.kernel_size, step.spec.dilation) for step in chain] == [
        ((3, 3), (2, 2)),
        ((3, 3), (1, 1)),
    ]
    assert chain_field(chain) == strided.receptive_field()


STEM = conv(3, 64, 7, (224, 224), stride=2)


def naive(*layers):
    """Their MACs, each given the size that the one before it makes, nothing lost at the border."""
    size, total = 224, 0
    for ins, outs, taps, stride in layers:
        size //= stride
        total += size * size * ins * outs * taps * taps
    return total


def test_the_stem_costs_many_times_more_unless_its_middle_is_narrow():
    last = naive((3, 64, 3, 1), (64, 64, 3, 1), (64, 64, 3, 2)) / STEM.macs
    first = naive((3, 64, 3, 2), (64, 64, 3, 1), (64, 64, 3, 1)) / STEM.macs
    assert (round(last, 1), round(first, 1)) == (20.3, 8.0)
    wide = planned("small_kernels", STEM, middle=64)
    assert round(wide.macs / STEM.macs, 1) == 4.1
    assert "4.1 times the MACs of the layer; fewer only below 15.6" in wide.note
    assert round(get("small_kernels").bound(STEM), 1) == 15.6
    assert all(options["middle"] < 15.6 for options in get("small_kernels").options(subject(STEM), 1.0))


def test_three_small_kernels_on_a_small_map_save_nearly_nothing():
    small, large = conv(64, 64, 7, (7, 7)), conv(64, 64, 7, (700, 700))
    assert round(planned("small_kernels", small, middle=64).macs / small.macs, 2) == 0.94
    assert round(planned("small_kernels", large, middle=64).macs / large.macs, 2) == 0.55
    assert round(planned("small_kernels", small, middle=64, padding="each").macs / small.macs, 2) == 0.55


def test_stride_first_is_half_the_cost_of_stride_last():
    spec = conv(64, 64, 5, (224, 224), stride=2)
    last = naive((64, 64, 3, 1), (64, 64, 3, 2)) / 4  # in units of MACs at half the size
    first = planned("small_kernels", spec, middle=64).macs
    assert naive((64, 64, 3, 1), (64, 64, 3, 2)) / spec.macs == pytest.approx(1.8)
    assert first < 0.55 * spec.macs < 4 * last


def bounds():
    """Rule, options that belong to a bound, the option that it bounds, and the layer."""
    for ins, outs, k, stride, groups in (
        *((64, 64, 5, 1, 1), (48, 80, 3, 1, 1), (32, 64, 7, 2, 1), (3, 64, 7, 2, 1), (64, 96, 5, 2, 4)),
        *((40, 24, 9, 1, 2), (128, 100, 5, 1, 1)),
    ):
        spec = conv(ins, outs, k, (4096 * stride,) * 2, stride=stride, groups=groups)
        if k > 3:
            yield "small_kernels", {}, "middle", spec
        yield "asymmetric", {"first": "height"}, "rank", spec
        yield "asymmetric", {"first": "width"}, "rank", spec
        yield "bottleneck", {"form": "in"}, "rank_in", spec
        yield "bottleneck", {"form": "out"}, "rank_out", spec
        yield "separable", {"order": "depthwise-first"}, "terms", spec
        yield "separable", {"order": "pointwise-first"}, "terms", spec
    yield "bottleneck", {"form": "out"}, "rank_out", conv(96, 40, 1, (999, 999))
    yield "bottleneck", {"form": "out"}, "rank_out", conv(40, 96, 4, (999, 999), transposed=True, stride=2)
    yield "bottleneck", {"form": "in"}, "rank_in", conv(40, 96, 4, (999, 999), transposed=True, stride=2)
    yield "asymmetric", {"first": "width"}, "rank", conv(40, 96, 4, (999, 999), transposed=True, stride=2)
    yield (
        "separable",
        {"order": "pointwise-first"},
        "terms",
        conv(40, 96, 4, (999, 999), transposed=True, stride=2),
    )
    yield (
        "separable",
        {"order": "depthwise-first"},
        "terms",
        conv(40, 96, 4, (999, 999), transposed=True, stride=2),
    )


@pytest.mark.parametrize(
    ("name", "how", "option", "spec"), list(bounds()), ids=lambda v: v if isinstance(v, str) else None
)
def test_below_the_break_even_it_saves_and_above_it_does_not(name, how, option, spec):
    bound = get(name).bound(spec, *how.values())
    step = spec.groups if name == "small_kernels" else 1
    below, above = step * floor(bound * 0.997 / step), step * ceil(bound * 1.003 / step)
    if below:
        assert planned(name, spec, **how, **{option: below}).macs < spec.macs
    most = max((one[option] for one in get(name).lossless(spec) if how.items() <= one.items()), default=0)
    if above <= most or name == "small_kernels":
        dear = planned(name, spec, **how, **{option: above})
        assert dear.macs > spec.macs
        assert "times the MACs of the layer" in dear.note
    else:
        assert planned(name, spec, **how, **{option: most}).macs < spec.macs


def test_the_break_evens_are_those_of_the_formulas():
    c = 64
    assert get("small_kernels").bound(conv(c, c, 5)) == 25 * c * c / (9 * 2 * c)
    assert round(get("small_kernels").bound(conv(c, c, 5)) / c, 2) == 1.39
    assert get("asymmetric").bound(conv(48, 80, 3)) == 3 * 48 * 80 / (48 + 80)
    assert get("asymmetric").bound(conv(48, 80, 3, stride=2)) == 3 * 48 * 80 / (2 * 48 + 80)
    assert get("bottleneck").bound(conv(48, 80, 3), "out") == 48 * 80 * 9 / (48 * 9 + 80)
    assert get("bottleneck").bound(conv(48, 80, 3), "in") == 48 * 80 * 9 / (48 + 80 * 9)
    assert get("bottleneck").bound(conv(48, 80, 1), "out") == 48 * 80 / (48 + 80)
    assert round(get("bottleneck").bound(conv(c, c, 3)), 3) == 0.895
    assert round(get("bottleneck").bound(conv(c, c, 5)), 3) == 0.961
    assert get("separable").bound(conv(48, 80, 3)) == 80 * 9 / (9 + 80)
    share = get("bottleneck").bound(conv(48, 80, 3))
    one, two = share * 48, share * 80
    assert 48 * one + 9 * one * two + two * 80 == pytest.approx(9 * 48 * 80)


@pytest.mark.parametrize("name", FACTORING)
@pytest.mark.parametrize("ratio", [0.7, 0.5, 0.34])
def test_options_bring_the_macs_to_the_ratio(name, ratio):
    for spec in (conv(128, 128, 5, (14, 14)), conv(64, 256, 5, stride=2), conv(64, 64, 5, groups=2)):
        made = [
            planned(name, spec, **options)
            for options in get(name).options(subject(spec), ratio)
            if name != "small_kernels" or options != {"middle": min(spec.in_channels, spec.out_channels)}
        ]
        assert made
        for one in made:
            assert one.macs <= ratio * spec.macs, (spec, one)
        assert max(one.macs for one in made) > 0.6 * ratio * spec.macs


@pytest.mark.parametrize("name", FACTORING)
def test_the_smallest_form_is_offered_where_the_ratio_is_out_of_reach(name):
    spec = conv(8, 8, 5, groups=8) if name in ("small_kernels", "asymmetric") else conv(8, 8, 5)
    found = list(get(name).options(subject(spec), 0.001))
    assert found
    assert all(planned(name, spec, **options).macs < spec.macs for options in found)


def test_large_ranks_are_multiples_of_eight():
    spec = conv(256, 256, 3, (28, 28))
    ranks = [options["rank"] for options in get("asymmetric").options(subject(spec), 0.5)]
    assert ranks[0] > 100
    assert all(rank % 8 == 0 for rank in ranks)


WRONG = [
    (
        "asymmetric",
        {"rank": 0},
        "rank=0 is not valid here; give a whole number from 1 to 24, where it is exact",
    ),
    ("asymmetric", {"rank": 2.5}, "rank=2.5 is not valid"),
    ("asymmetric", {"first": "depth"}, "first='depth' is not valid; give one of height, width"),
    ("asymmetric", {"ranks": 3}, "asymmetric has no option 'ranks'; it has rank, first"),
    ("bottleneck", {"form": "inside"}, "form='inside' is not valid; give one of both, out, in"),
    ("bottleneck", {"form": "in", "rank_out": 3}, "form='in' takes no rank_out"),
    ("bottleneck", {"rank_in": 9}, "from 1 to 8"),
    ("separable", {"terms": 9}, "from 1 to 8"),
    ("separable", {"order": "first"}, "is not valid; give one of depthwise-first, pointwise-first"),
    ("small_kernels", {"middle": 4}, "small_kernels does not apply: its kernel of 3x3 is small already"),
    ("reduce_first", {"activation": "Tanh"}, "only 'ReLU' lets through unchanged"),
]


@pytest.mark.parametrize(("name", "options", "words"), WRONG)
def test_an_option_without_sense_says_what_has(name, options, words):
    with pytest.raises(RewriteError) as caught:
        planned(name, conv(8, 8, 3), **options)
    assert str(caught.value).startswith("layer: ")
    assert words in str(caught.value)


def test_the_middle_of_a_grouped_stack_is_a_multiple_of_its_groups():
    spec = conv(8, 8, 5, groups=4)
    with pytest.raises(RewriteError, match="at least 4, a multiple of its 4 groups"):
        planned("small_kernels", spec, middle=6)
    assert [step.spec.groups for step in planned("small_kernels", spec, middle=12).chain] == [4, 4]


def test_depthwise_stays_depthwise():
    spec = conv(8, 8, 5, groups=8)
    small = planned("small_kernels", spec, middle=16)
    assert [(one.spec.in_channels, one.spec.out_channels, one.spec.groups) for one in small.convs] == [
        (8, 16, 8),
        (16, 8, 8),
    ]
    apart = planned("asymmetric", spec, rank=2)
    assert [(one.spec.kernel_size, one.spec.groups) for one in apart.convs] == [((5, 1), 8), ((1, 5), 8)]


def test_in_three_dimensions_one_axis_is_parted_from_the_others():
    spec = conv(8, 8, 3, (9, 9, 9))
    assert [options["first"] for options in get("asymmetric").options(subject(spec), 0.5)] == [
        "depth",
        "height+width",
    ]
    chain = planned("asymmetric", spec, rank=4, first="height+width").chain
    assert [step.spec.kernel_size for step in chain] == [(1, 3, 3), (3, 1, 1)]


def test_stride_and_padding_are_split_by_axis():
    spec = conv(8, 8, 3, stride=(2, 3), padding=[(0, 2), (1, 1)], dilation=2, padding_mode="reflect")
    first, second = (step.spec for step in planned("asymmetric", spec, rank=4, first="width").chain)
    assert (first.stride, first.padding, first.dilation) == ((1, 3), ((0, 0), (1, 1)), (1, 2))
    assert (second.stride, second.padding, second.dilation) == ((2, 1), ((0, 2), (0, 0)), (2, 1))
    assert first.padding_mode == second.padding_mode == "reflect"


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


class Block(nn.Module):
    """Three branches of one map, side by side."""

    def __init__(self, joined):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one, self.three, self.five = (
            nn.Conv2d(16, 16, k, padding=k // 2, bias=False) for k in (1, 3, 5)
        )
        self.head = nn.Conv2d(48 if joined == "cat" else 16, 16, 3, padding=1, bias=False)
        self.act, self.joined = nn.ReLU(inplace=True), joined

    def forward(self, x):
        x = self.act(self.stem(x))
        branches = [self.act(branch(x)) for branch in (self.one, self.three, self.five)]
        return self.head(torch.cat(branches, 1) if self.joined == "cat" else sum(branches))


def subjects(model, *shape):
    analysis = archcost.analyze(model, input_size=shape)
    return survey_of(analysis).subjects


def test_a_branch_beside_others_is_reduced_first_and_what_feeds_alone_is_not():
    rule, found = get("reduce_first"), subjects(Block("cat"), 1, 3, 8, 8)
    reasons = {name: rule.refusal(one) for name, one in found.items()}
    assert {name: why and why.reason for name, why in reasons.items()} == {
        "stem": "no other layer reads its input: bottleneck's form 'in' is the same change there",
        "one": "a 1x1 is itself what would be put first",
        "three": None,
        "five": None,
        "head": "no other layer reads its input: bottleneck's form 'in' is the same change there",
    }
    added = subjects(Block("add"), 1, 3, 8, 8)
    assert "their outputs are not concatenated with its own" in rule.refusal(added["three"]).reason


def test_the_plain_block_has_the_parameters_of_the_textbook_and_the_reduced_one_fewer():
    found = subjects(Block("cat"), 1, 3, 8, 8)
    branches = [found[name] for name in ("one", "three", "five")]
    assert sum(one.spec.params for one in branches) == 8960
    reduced = [get("reduce_first").replacement(one, channels=8).params for one in branches[1:]]
    assert branches[0].spec.params + sum(reduced) == 4864
    c1, c2 = 16, 8
    assert ((3 * c1 + c2) + 9 * c2 + 25 * c2) * c1 == 5248
    assert [get("reduce_first").replacement(one) for one in branches[1:]] == [
        get("reduce_first").replacement(one, channels=8) for one in branches[1:]
    ]


def test_the_branches_of_known_models_are_found():
    from torchvision.models.segmentation.deeplabv3 import ASPP

    found = subjects(ASPP(64, [2, 4], 32).eval(), 1, 64, 16, 16)
    taken = [name for name, one in found.items() if get("reduce_first").refusal(one) is None]
    assert taken == ["convs.1.0", "convs.2.0"]


@pytest.mark.parametrize("name", [*FACTORING, "reduce_first"])
def test_the_replacement_stands_in_the_place_of_the_layer(name):
    spec = conv(8, 12, 5, batch=3)
    made = planned(name, spec)
    assert made.name == "layer"
    first, *_, last = (one.spec for one in made.convs)
    assert (first.in_channels, first.input_size) == (spec.in_channels, spec.input_size)
    assert (last.out_channels, last.output_size) == (spec.out_channels, spec.output_size)
    assert [one.spec.bias for one in made.convs] == [False] * (len(made.convs) - 1) + [True]
    assert {one.spec.batch for one in made.convs} == {3}


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
