"""Expansion, depthwise convolution and projection as one step: equal to the three layers."""

from ctypes import c_int64, c_void_p

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost import kernels
from archcost.kernels.loading import library
from archcost.kernels.steps import ActivationArguments, InvertedResidualArguments
from helpers.blocked import (
    CLAMP,
    IDENTITY,
    blocked_images,
    from_blocked,
    lanes,
    run_step,
    to_blocked,
)
from helpers.direct import packed, whole_blocks

ERROR = 1e-5
RELU6, NONE = ActivationArguments(CLAMP, 0.0, 6.0), ActivationArguments(IDENTITY)


def packed_depthwise(isa, weight):
    count = library(isa).archcost_inverted_residual_packed_floats
    pack = library(isa).archcost_inverted_residual_pack
    count.restype, count.argtypes = c_int64, [c_int64] * 2
    pack.restype, pack.argtypes = None, [c_int64, c_int64, c_void_p, c_void_p]
    sizes = weight.shape[2], weight.shape[0]
    room = torch.empty(count(*sizes))
    pack(*sizes, weight.contiguous().data_ptr(), room.data_ptr())
    return room


def run(isa, x, expansion, depthwise, projection, *, step, padding, addend=None, threads=1, sums=False):
    """Each of the three is (weight, bias), the first and the last may be None; padding as for `F.pad`."""
    of = lanes(isa)
    left, right, top, bottom = padding
    channels, _, taps, _ = depthwise[0].shape
    height = (x.shape[2] + top + bottom - taps) // step + 1
    width = (x.shape[3] + left + right - taps) // step + 1
    shape = (x.shape[0], projection[0].shape[0] if projection else channels, height, width)
    output = to_blocked(torch.full(shape, float("nan")), of)
    total = whole_blocks(torch.full((x.shape[0], channels), float("nan")), of)
    images = blocked_images(shape, of)
    arguments = InvertedResidualArguments(
        *(blocked_images(x.shape, of), images, images, channels, taps, step, top, left, total.stride(0)),
        *(RELU6, RELU6, NONE),
    )
    places = [to_blocked(x, of)]
    for layer, pack in (
        (expansion, lambda w: packed(isa, (1,) * 6, w, True)),
        (depthwise, lambda w: packed_depthwise(isa, w)),
        (projection, lambda w: packed(isa, (1,) * 6, w, True)),
    ):
        places += [pack(layer[0]), whole_blocks(layer[1], of)] if layer else [None, None]
    places += [output, None if addend is None else to_blocked(addend, of), total if sums else None]
    run_step(isa, "inverted_residual", arguments, places, threads)
    return from_blocked(output, shape[1]), total[:, :channels]


def definition(x, expansion, depthwise, projection, *, step, padding, addend=None):
    x = x.double()
    if expansion:
        x = F.conv2d(x, *(t.double() for t in expansion)).clamp(0, 6)
    weight, bias = (t.double() for t in depthwise)
    x = F.conv2d(F.pad(x, padding), weight, bias, step, groups=weight.shape[0]).clamp(0, 6)
    if projection:
        x = F.conv2d(x, *(t.double() for t in projection))
    return x if addend is None else x + addend.double()


def check(y, expected):
    assert y.shape == expected.shape
    assert ((y - expected).abs().max() / expected.abs().max().clamp_min(1)).item() < ERROR


def layers(ins, channels, outs, taps):
    expansion = (torch.randn(channels, ins, 1, 1) / ins**0.5, torch.randn(channels)) if ins else None
    depthwise = torch.randn(channels, 1, taps, taps) / taps, torch.randn(channels)
    projection = (torch.randn(outs, channels, 1, 1) / channels**0.5, torch.randn(outs)) if outs else None
    return expansion, depthwise, projection


isas = pytest.mark.parametrize("isa", kernels.usable_isas())


@isas
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_block(isa, data):
    def number(low, high):
        return data.draw(st.integers(low, high))

    taps, step = data.draw(st.sampled_from([3, 5, 7])), number(1, 2)
    padding = [number(0, taps - 1) for _ in range(4)]
    left, right, top, bottom = padding
    height, width = number(max(1, taps - top - bottom), 40), number(max(1, taps - left - right), 40)
    ins, channels = data.draw(st.sampled_from([0, 5, 24, 40])), number(1, 90)
    outs = data.draw(st.sampled_from([0, 7, 24, 33, 70]))
    x = torch.randn(number(1, 2), ins or channels, height, width)
    three = layers(ins, channels, outs, taps)
    options = {"step": step, "padding": padding}
    expected = definition(x, *three, **options)
    if outs and number(0, 1):
        options["addend"] = torch.randn(expected.shape)
        expected = definition(x, *three, **options)
    sums = not outs and number(0, 1) == 1
    y, total = run(isa, x, *three, **options, sums=sums, threads=number(1, 2))
    check(y, expected)
    if sums:
        check(total, expected.sum((2, 3)))


@isas
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("channels", "expanded", "size", "step"),
    [(32, 192, 56, 1), (24, 144, 57, 2), (96, 576, 14, 1), (160, 960, 7, 1), (8, 900, 14, 2)],
)
def test_bands_of_rows(isa, channels, expanded, size, step, threads):
    """The rows that one band keeps for the next, and both ways of giving work to threads."""
    x = torch.randn(1, channels, size, size)
    for taps in (3, 5):
        three = layers(channels, expanded, channels, taps)
        options = {"step": step, "padding": (taps // 2,) * 4}
        check(run(isa, x, *three, **options, threads=threads)[0], definition(x, *three, **options))
        y, total = run(isa, x, *three[:2], None, **options, sums=True, threads=threads)
        expected = definition(x, *three[:2], None, **options)
        check(y, expected)
        check(total, expected.sum((2, 3)))


@isas
def test_what_is_no_number_stays_so(isa):
    x, three = torch.randn(1, 20, 12, 12), layers(20, 37, 18, 3)
    x[0, 19, 6, 6] = float("nan")
    y, _ = run(isa, x, *three, step=1, padding=(1,) * 4)
    expected = definition(x, *three, step=1, padding=(1,) * 4)
    assert torch.equal(y.isnan(), expected.isnan())
