"""What a replacement costs on paper: break-evens are those of the formulas, options bring MACs to a ratio."""

from math import ceil, floor

import pytest

from archcost.rewriting.rule import get
from helpers.layers import FACTORING, conv, planned, subject

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
