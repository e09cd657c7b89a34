"""ConvSpec: layer arithmetic, against the textbook and against the framework."""

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import archcost
import archcost.spec
from archcost import ConvSpec, FieldStep, InputError, stacked_field


def test_the_docstring_says_what_is_true():
    assert doctest.testmod(archcost.spec).failed == 0


def test_textbook_figures():
    first = ConvSpec(3, 96, 11, stride=4, input_size=(227, 227))
    assert first.output_size == (55, 55)
    assert first.neurons == 290_400
    assert first.params == 34_944
    # 7x7 against three 3x3, 5x5 against two, on C channels without bias: 49 C^2 : 27 C^2, 25 : 18.
    c = 64
    assert ConvSpec(c, c, 7, padding=3, bias=False).params == 49 * c * c
    assert 3 * ConvSpec(c, c, 3, padding=1, bias=False).params == 27 * c * c
    assert ConvSpec(c, c, 5, padding=2, bias=False).params == 25 * c * c
    assert 2 * ConvSpec(c, c, 3, padding=1, bias=False).params == 18 * c * c


@st.composite
def layers(draw):
    axes = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    transposed = draw(st.booleans())
    stride = draw(st.integers(1, 3))
    values = {
        "in_channels": groups * draw(st.integers(1, 3)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel_size": tuple(draw(st.integers(1, 4)) for _ in range(axes)),
        "stride": stride,
        "padding": draw(st.integers(0, 2)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if transposed:
        values["output_padding"] = draw(st.integers(0, stride - 1))
    size = tuple(draw(st.integers(5, 9)) for _ in range(axes))
    return axes, transposed, values, size, draw(st.integers(1, 3))


@settings(max_examples=60, deadline=None)
@given(layers())
def test_shapes_parameters_and_macs_are_those_of_the_framework(layer):
    axes, transposed, values, size, batch = layer
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{axes}d")
    module = kind(**values)
    try:
        expected = module(torch.zeros(batch, values["in_channels"], *size))
    except RuntimeError:
        with pytest.raises(InputError):
            ConvSpec(**values, transposed=transposed, input_size=size, batch=batch)
        return
    spec = ConvSpec(**values, transposed=transposed, input_size=size, batch=batch)
    assert (batch, values["out_channels"], *spec.output_size) == tuple(expected.shape)
    assert spec.neurons == expected.numel()
    assert spec.params == sum(p.numel() for p in module.parameters())
    total = archcost.analyze(module, torch.zeros(batch, values["in_channels"], *size)).total
    assert (spec.macs, spec.flops, spec.bias_ops) == (total.macs, total.flops, total.other_ops)


def test_padding_may_differ_by_side():
    spec = ConvSpec(1, 1, 2, padding=((0, 1), (0, 1)), input_size=(8, 8))
    assert spec.output_size == (8, 8)


def test_pooling_has_the_shapes_of_a_depthwise_convolution():
    assert ConvSpec(64, 64, 2, stride=2, groups=64, input_size=(224, 224)).output_size == (112, 112)
    assert ConvSpec(96, 96, 3, stride=2, groups=96, input_size=(55, 55)).output_size == (27, 27)


def test_the_extent_counts_the_holes_of_dilation():
    assert ConvSpec(1, 1, (3, 5), dilation=(4, 1)).extent == (9, 5)
    assert ConvSpec(1, 1, 1, dilation=7).extent == (1, 1)


def test_fields_of_well_known_stacks():
    assert ConvSpec(3, 96, 11, stride=4).receptive_field() == FieldStep((11, 11), (4, 4), (0, 0))
    three, five = ConvSpec(8, 8, 3, padding=1), ConvSpec(8, 8, 5, padding=2)
    assert stacked_field([three] * 2) == five.receptive_field() == FieldStep((5, 5), (1, 1), (2, 2))
    assert stacked_field([three] * 3).size == (7, 7)
    # ResNet-50 down to its first pooling: 7x7 stride 2, 3x3 stride 2; then AlexNet's features.
    stem = [ConvSpec(3, 64, 7, stride=2, padding=3), ConvSpec(64, 64, 3, stride=2, padding=1, groups=64)]
    assert stacked_field(stem) == FieldStep((11, 11), (4, 4), (5, 5))
    pool = ConvSpec(8, 8, 3, stride=2, groups=8)
    alexnet = [ConvSpec(3, 96, 11, stride=4), pool, five, pool, three, three, three, pool]
    assert stacked_field(alexnet) == FieldStep((195, 195), (32, 32), (64, 64))  # as Araujo et al. list it
    dilated = [ConvSpec(1, 1, 3, dilation=d, input_size=64) for d in (1, 2, 4, 8)]
    assert stacked_field(dilated).size == (31,)
    assert three.receptive_field(before=pool.receptive_field()).size == (7, 7)  # 3 + 2 * 2


@st.composite
def stacks(draw):
    """Modules and specs that fit an input of 150 pixels, however they are drawn."""
    axes = draw(st.integers(1, 2))
    modules, specs = [], []
    for _ in range(draw(st.integers(1, 4))):
        transposed = draw(st.booleans())
        values = {
            "kernel_size": tuple(draw(st.integers(1, 4)) for _ in range(axes)),
            "stride": 1 if transposed else tuple(draw(st.integers(1, 3)) for _ in range(axes)),
            "padding": tuple(draw(st.integers(0, 2)) for _ in range(axes)),
            "dilation": draw(st.integers(1, 2)),
        }
        kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{axes}d")
        modules.append(kind(1, 1, **values))
        specs.append(ConvSpec(1, 1, **values, transposed=transposed, input_size=(150,) * axes))
    return nn.Sequential(*modules), specs


@settings(max_examples=25, deadline=None)
@given(stacks())
def test_the_recurrence_gives_what_the_intervals_of_the_model_give(stack):
    model, specs = stack
    network = archcost.analyze(model, input_size=(1, 1, *specs[0].input_size)).fields.network
    on_paper = stacked_field(specs)
    assert (network.size, network.stride, network.padding) == (
        on_paper.size,
        on_paper.stride,
        on_paper.padding,
    )


def test_a_field_that_has_no_one_size_says_so():
    with pytest.raises(InputError, match=r"of stride \(2, 1\) depends on the position; build the module"):
        ConvSpec(1, 1, 4, stride=(2, 1), transposed=True).receptive_field()
    with pytest.raises(InputError, match="the spec has 2 spatial axes and before has 1"):
        stacked_field([ConvSpec(1, 1, 3, input_size=9), ConvSpec(1, 1, 3)])
    with pytest.raises(InputError, match="stacked_field: no layers given"):
        stacked_field([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": (3, 3, 3)}, "ConvSpec: kernel_size has 3 values for 2 spatial axes"),
        (
            {"kernel_size": 3, "groups": 5},
            "ConvSpec: groups=5 must divide in_channels=16 and out_channels=32",
        ),
        ({"kernel_size": 9, "input_size": (8, 8)}, "does not fit the input of (8, 8)"),
        ({"kernel_size": 3, "input_size": (8,) * 4}, "input_size needs 1, 2 or 3 spatial sizes"),
        ({"kernel_size": 3, "padding": (1, 1, 1)}, "padding has 3 values for 2 spatial axes"),
        ({"kernel_size": 3, "padding": "same"}, "give padding in numbers"),
        ({"kernel_size": 3, "stride": 0}, "stride=(0, 0) is too small"),
        ({"kernel_size": 0}, "kernel_size=(0, 0) is too small"),
        ({"kernel_size": 3, "padding": -1}, "padding=((-1, -1), (-1, -1)) is too small"),
    ],
)
def test_an_impossible_convolution_says_why(arguments, message):
    with pytest.raises(InputError) as error:
        ConvSpec(16, 32, **arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("spec", "whole", "short", "layer"),
    [
        (
            ConvSpec(64, 64, 3, padding=1, input_size=(56, 56)),
            "64 -> 64, 3x3, padding 1, on 56x56, batch 1",
            "64 -> 64 3x3 on 56x56",
            "64 -> 64, 3x3",
        ),
        (
            ConvSpec(8, 8, (5, 3), stride=2, padding=((2, 2), (0, 1)), groups=8, bias=False, batch=2),
            "8 -> 8, 5x3, padding 2 0+1, stride 2, groups 8, no bias, on 224x224, batch 2",
            "8 -> 8 5x3 /2 groups 8 on 224x224",
            "8 -> 8, 5x3, stride 2, depthwise",
        ),
        (
            ConvSpec(4, 6, 3, (2, 1), transposed=True, output_padding=(1, 0), groups=2, input_size=(9, 9)),
            "4 -> 6, 3x3, transposed, stride 2x1, output padding 1x0, groups 2, on 9x9, batch 1",
            "4 -> 6 3x3 /2x1 groups 2 transposed on 9x9",
            "4 -> 6, 3x3, stride 2x1, 2 groups, transposed",
        ),
    ],
)
def test_a_convolution_in_words(spec, whole, short, layer):
    assert (str(spec), spec.short, spec.layer) == (whole, short, layer)
