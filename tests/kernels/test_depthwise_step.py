"""The step of the direct depthwise convolution, in blocked layout, against its definition."""

from ctypes import Structure, c_int64
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


class Depthwise(Structure):
    _fields_ = [
        *(("input", Images), ("output", Images), ("window", Window)),
        *(("pad_top", c_int64), ("pad_left", c_int64), ("activation", Activation)),
    ]


def run(isa, x, weight, bias, addend, padding, window, activation=(IDENTITY, 0, 0), threads=1):
    """``padding``: top, bottom, left, right; ``window``: taps, strides and dilations."""
    library, of, channels = loading.library(isa), lanes(isa), x.shape[1]
    top, bottom, left, right = padding
    height = (x.shape[2] + top + bottom - (window[0] - 1) * window[4] - 1) // window[2] + 1
    width = (x.shape[3] + left + right - (window[1] - 1) * window[5] - 1) // window[3] + 1
    shape = (x.shape[0], channels, height, width)
    packed = torch.empty(library.archcost_depthwise_direct_packed_floats(*window, channels))
    weight = weight.contiguous()
    library.archcost_depthwise_direct_pack(*window, channels, weight.data_ptr(), packed.data_ptr())
    y = to_blocked(torch.full(shape, nan), of)
    images = blocked_images(x.shape, of), blocked_images(shape, of)
    arguments = Depthwise(*images, Window(*window), top, left, Activation(*activation))
    added = None if addend is None else to_blocked(addend, of)
    run_step(isa, "depthwise", arguments, (to_blocked(x, of), packed, bias, added, y), threads)
    return from_blocked(y, channels)


def definition(x, weight, bias, padding, window):
    top, bottom, left, right = padding
    padded = F.pad(x.double(), (left, right, top, bottom))
    offset = None if bias is None else bias.double()
    return F.conv2d(padded, weight.double(), offset, window[2:4], 0, window[4:], x.shape[1])


@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_window_on_any_shape(isa, data):
    integer = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    torch.manual_seed(integer(0, 99))
    size = data.draw(st.sampled_from([3, 5, 7, 0]))
    taps = (size or integer(1, 8), size or integer(1, 8))
    common = integer(0, 1)
    steps = (integer(1, 3), integer(1, 2 if common else 3), integer(1, 2), 1 if common else integer(1, 2))
    window = (*taps, *steps)
    spans = [(t - 1) * d + 1 for t, d in zip(taps, steps[2:], strict=True)]
    padding = [integer(0, spans[axis // 2]) for axis in range(4)]
    least = [max(1, s - padding[2 * axis] - padding[2 * axis + 1]) for axis, s in enumerate(spans)]
    x = torch.randn(integer(1, 2), integer(1, 40), *(integer(low, low + 20) for low in least))
    weight, bias = torch.randn(x.shape[1], 1, *taps), torch.randn(x.shape[1]) if integer(0, 1) else None
    expected = definition(x, weight, bias, padding, window)
    addend = torch.randn(expected.shape) if integer(0, 1) else None
    clamp = integer(0, 1)
    if addend is not None:
        expected = expected + addend
    activation = (CLAMP, -0.5, 1.5) if clamp else (IDENTITY, 0, 0)
    y = run(isa, x, weight, bias, addend, padding, window, activation, integer(1, 2))
    scale = expected.abs().max().clamp_min(1)
    expected = expected.clamp(-0.5, 1.5) if clamp else expected
    assert ((y - expected).abs().max() / scale).item() < 1e-5


@pytest.mark.parametrize("isa", kernels.usable_isas())
@pytest.mark.parametrize("window", [(3, 3, 1, 1, 1, 1), (5, 5, 2, 2, 1, 1), (4, 2, 1, 3, 2, 2)])
def test_what_is_no_number_reaches_the_outputs_that_see_it_and_no_others(isa, window):
    x = torch.randn(1, 21, 17, 19)
    x[0, 3, 0, 0], x[0, 20, 8, 9], x[0, 5, 16, 18] = nan, inf, nan
    weight = torch.randn(21, 1, *window[:2])
    expected = definition(x, weight, None, (1, 1, 1, 1), window)
    y = run(isa, x, weight, None, None, (1, 1, 1, 1), window, (CLAMP, -inf, inf))
    torch.testing.assert_close(y, expected.float(), equal_nan=True, rtol=1e-4, atol=1e-5)
