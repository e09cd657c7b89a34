"""The steps of max and average pooling, in blocked layout, against PyTorch's."""

from ctypes import Structure, c_int64
from functools import partial
from math import inf, nan

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost import kernels
from archcost.kernels.loading import Images
from helpers.blocked import Window, blocked_images, from_blocked, lanes, run_step, to_blocked

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")


class Pool(Structure):
    _fields_ = [
        *(("input", Images), ("output", Images), ("window", Window)),
        *((name, c_int64) for name in ("pad_top", "pad_left", "count_include_pad", "divisor")),
    ]


def run(isa, name, x, expected, window, padding, counts=0, divisor=0, threads=1):
    of = lanes(isa)
    y = to_blocked(torch.full(expected.shape, nan), of)
    images = blocked_images(x.shape, of), blocked_images(expected.shape, of)
    arguments = Pool(*images, Window(*window), *padding, counts, divisor)
    run_step(isa, name, arguments, (to_blocked(x, of), y), threads)
    return from_blocked(y, x.shape[1])


def drawn(data, dilations):
    """An input, and kernel, stride, padding and dilation of a window that fits it."""
    integer = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    torch.manual_seed(integer(0, 99))
    kernel = data.draw(st.sampled_from([(3, 3), (2, 2), (1, 3), (3, 2), (5, 5), (7, 4), (1, 1)]))
    stride = data.draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 3)]))
    padding = integer(0, kernel[0] // 2), integer(0, kernel[1] // 2)
    dilation = (integer(1, dilations), integer(1, dilations))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    x = torch.randn(integer(1, 2), integer(1, 40), *(integer(span, span + 20) for span in spans))
    return x, kernel, stride, padding, dilation, bool(integer(0, 1)), integer(1, 2)


@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_max_pool(isa, data):
    x, kernel, stride, padding, dilation, ceil, threads = drawn(data, 2)
    for value in data.draw(st.lists(st.sampled_from([nan, inf, -inf]), max_size=3)):
        x[tuple(torch.randint(size, ()) for size in x.shape)] = value
    expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil)
    y = run(isa, "max_pool", x, expected, (*kernel, *stride, *dilation), padding, threads=threads)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_avg_pool(isa, data):
    x, kernel, stride, padding, _, ceil, threads = drawn(data, 1)
    counts, divisor = data.draw(st.booleans()), data.draw(st.sampled_from([None, 5]))
    pool = partial(F.avg_pool2d, kernel_size=kernel, stride=stride, padding=padding, ceil_mode=ceil)
    expected = pool(x.double(), count_include_pad=counts, divisor_override=divisor).float()
    window = (*kernel, *stride, 1, 1)
    y = run(isa, "avg_pool", x, expected, window, padding, int(counts), divisor or 0, threads)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", kernels.usable_isas())
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (13, 6)])
def test_a_global_pool_is_a_window_as_large_as_the_map(isa, size):
    x = torch.randn(2, 21, *size)
    x[1, 20, -1, -1] = nan
    mean, most = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    window = (*size, 1, 1, 1, 1)
    torch.testing.assert_close(run(isa, "avg_pool", x, mean, window, (0, 0)), mean, equal_nan=True)
    torch.testing.assert_close(run(isa, "max_pool", x, most, window, (0, 0)), most, equal_nan=True)
