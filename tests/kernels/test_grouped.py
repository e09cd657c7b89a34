"""The step of grouped convolutions, in blocked layout, against their definition."""

import ctypes
from ctypes import Structure, c_int64, c_void_p
from math import inf, nan

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost import kernels
from archcost.kernels import loading
from archcost.kernels.loading import Images
from helpers.blocked import (
    CLAMP,
    IDENTITY,
    Activation,
    Window,
    blocked_images,
    from_blocked,
    lanes,
    run_step,
    to_blocked,
)

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")


class Grouped(Structure):
    _fields_ = [
        *(("input", Images), ("output", Images), ("window", Window)),
        *((name, c_int64) for name in ("pad_top", "pad_left", "groups")),
        ("activation", Activation),
    ]


def pack(isa, window, weight):
    library, weight = loading.library(isa), weight.contiguous()
    floats, filled = library.archcost_grouped_packed_floats, library.archcost_grouped_pack
    floats.restype, floats.argtypes = c_int64, [c_void_p, c_int64, c_int64]
    filled.restype, filled.argtypes = None, [c_void_p, c_int64, c_int64, c_void_p, c_void_p]
    packed = torch.full((floats(ctypes.byref(window), *weight.shape[:2]),), nan)
    filled(ctypes.byref(window), *weight.shape[:2], weight.data_ptr(), packed.data_ptr())
    assert packed.isfinite().all()
    return packed


def run(isa, x, weight, bias, addend, padding, window, groups, activation=(IDENTITY, 0, 0), threads=1):
    """``padding``: vertical and horizontal; ``window``: taps, strides and dilations."""
    of = lanes(isa)
    settled = window[2:4], padding, window[4:], groups
    shape = F.conv2d(x.to("meta"), weight.to("meta"), None, *settled).shape
    y = to_blocked(torch.full(shape, nan), of)
    images = blocked_images(x.shape, of), blocked_images(shape, of)
    arguments = Grouped(*images, Window(*window), *padding, groups, Activation(*activation))
    added = None if addend is None else to_blocked(addend, of)
    places = to_blocked(x, of), pack(isa, Window(*window), weight), bias, added, y
    run_step(isa, "grouped", arguments, places, threads)
    return from_blocked(y, shape[1])


@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_window_and_groups_of_any_width(isa, data):
    integer = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    torch.manual_seed(integer(0, 99))
    ins = data.draw(st.sampled_from([1, 2, 3, 4, 6, 8, 8, 12, 16, 24, 32]))
    outs = ins if integer(0, 2) else integer(1, 40)
    groups = integer(1, max(1, 80 // max(ins, outs)))
    taps = data.draw(st.sampled_from([(3, 3), (3, 3), (1, 1), (2, 5)]))
    steps = data.draw(st.sampled_from([(1, 1), (2, 2), (3, 1)]))
    dilation = data.draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]))
    window, padding = (*taps, *steps, *dilation), (integer(0, taps[0] - 1), integer(0, taps[1] - 1))
    spans = [(t - 1) * d + 1 for t, d in zip(taps, dilation, strict=True)]
    least = [max(1, s - 2 * p) for s, p in zip(spans, padding, strict=True)]
    x = torch.randn(integer(1, 2), ins * groups, *(integer(low, low + 18) for low in least))
    weight = torch.randn(outs * groups, ins, *taps)
    bias = torch.randn(outs * groups) if integer(0, 1) else None
    offset = None if bias is None else bias.double()
    expected = F.conv2d(x.double(), weight.double(), offset, steps, padding, dilation, groups)
    addend = torch.randn(expected.shape) if integer(0, 1) else None
    expected = expected if addend is None else expected + addend
    activation = (CLAMP, -0.5, 1.5) if integer(0, 1) else (IDENTITY, 0, 0)
    scale = expected.abs().max().clamp_min(1)
    expected = expected.clamp(-0.5, 1.5) if activation[0] == CLAMP else expected
    y = run(isa, x, weight, bias, addend, padding, window, groups, activation, integer(1, 2))
    assert ((y - expected).abs().max() / scale).item() < 1e-5


@pytest.mark.parametrize("isa", kernels.usable_isas())
@pytest.mark.parametrize("width", [2, 4, 6, 8, 12, 24])
def test_what_is_no_number_stays_in_its_group(isa, width):
    x, weight = torch.randn(1, 2 * width, 9, 16), torch.randn(2 * width, width, 3, 3)
    x[0, width, 4, 4], x[0, 0, 0, 15] = inf, nan
    expected = F.conv2d(x, weight, padding=1, groups=2)
    y = run(isa, x, weight, None, None, (1, 1), (3, 3, 1, 1, 1, 1), 2, (CLAMP, -inf, inf))
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=1e-4, atol=1e-4)
