"""ConvSpec: layer arithmetic, against the textbook and against the framework."""

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import archcost
import archcost.spec
from archcost import ConvSpec, InputError


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
