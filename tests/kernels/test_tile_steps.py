"""The steps of convolutions by tiles, and depthwise ones by Fourier rows, in blocked layout."""

from ctypes import Structure, c_int64
from math import inf, nan

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost import kernels
from archcost.kernels import loading
from archcost.kernels.loading import Problem
from helpers.blocked import (
    CLAMP,
    IDENTITY,
    Activation,
    blocked_images,
    from_blocked,
    lanes,
    run_step,
    to_blocked,
)

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")

WINOGRAD, FOURIER, FOURIER_OF_PAIRS = 0, 1, 2
# Families and numbers of tiles, the taps, and what the largest error may be.
TILES = [
    *((WINOGRAD, place, 0, (3, 3), error) for place, error in ((3, 1e-5), (4, 5e-5), (5, 1e-4))),
    *((WINOGRAD, place, 0, (1, 3), 1e-4) for place in (18, 20)),
    (WINOGRAD, 10, 0, (5, 5), 1e-4),
    (FOURIER, 16, 7, (1, 7), 2e-6),
    (FOURIER_OF_PAIRS, 16, 7, (1, 7), 2e-6),
]


class Tiles(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("family", "first", "second")),
        *(("convolution", Problem), ("activation", Activation)),
    ]


class FftDepthwise(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("height", "width", "transform_size")),
        *(("convolution", Problem), ("activation", Activation)),
    ]


def run(isa, name, numbers, x, packed, bias, addend, shape, padding, activation, threads):
    """A step whose arguments are three numbers, the convolution and the activation."""
    of = lanes(isa)
    y = to_blocked(torch.full(shape, nan), of)
    images = blocked_images(x.shape, of), blocked_images(shape, of)
    kind = Tiles if name == "tiles" else FftDepthwise
    arguments = kind(*numbers, Problem(*images, *padding, 0, 0, 0, 0), Activation(*activation))
    added = None if addend is None else to_blocked(addend, of)
    run_step(isa, name, arguments, (to_blocked(x, of), packed, bias, added, y), threads)
    return from_blocked(y, shape[1])


def drawn(data, taps, groups):
    integer = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    torch.manual_seed(integer(0, 99))
    padding = [integer(0, tap - 1) for tap in taps for _ in range(2)]
    ins = integer(1, 40)
    outs = ins if groups else integer(1, 70)
    x = torch.randn(integer(1, 2), ins, *(integer(tap, tap + 30) for tap in taps))
    weight = torch.randn(outs, 1 if groups else ins, *taps)
    bias = torch.randn(outs) if integer(0, 1) else None
    padded = F.pad(x.double(), (*padding[2:], *padding[:2]))
    offset = None if bias is None else bias.double()
    expected = F.conv2d(padded, weight.double(), offset, groups=ins if groups else 1)
    addend = torch.randn(expected.shape) if integer(0, 1) else None
    activation = (CLAMP, -0.5, 1.5) if integer(0, 1) else (IDENTITY, 0, 0)
    # Of terms that do not cancel: a single output may happen to be small.
    squares = F.conv2d(padded**2, weight.double() ** 2, groups=ins if groups else 1)
    scale = max(expected.abs().max().item(), squares.max().sqrt().item())
    expected = expected if addend is None else expected + addend
    expected = expected.clamp(-0.5, 1.5) if activation[0] == CLAMP else expected
    return x, weight, bias, addend, padding, activation, integer(1, 2), expected, scale


@pytest.mark.parametrize("isa", kernels.usable_isas())
@pytest.mark.parametrize(("family", "first", "second", "taps", "error"), TILES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_tiles(isa, family, first, second, taps, error, data):
    x, weight, bias, addend, padding, activation, threads, expected, scale = drawn(data, taps, groups=False)
    library, tile = loading.library(isa), (family, first, second)
    packed = torch.empty(library.archcost_tiles_packed_floats(*tile, *weight.shape[:2]))
    assert library.archcost_tiles_pack(*tile, *weight.shape[:2], weight.data_ptr(), packed.data_ptr()) == 0
    places = x, packed, bias, addend, expected.shape, padding[::2], activation, threads
    y = run(isa, "tiles", tile, *places)
    assert (y - expected).abs().max().item() <= error * scale + 1e-6


@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_fft_depthwise(isa, data):
    taps = (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 31)))
    x, weight, bias, addend, padding, activation, threads, expected, scale = drawn(data, taps, groups=True)
    library = loading.library(isa)
    size = library.archcost_depthwise_size(taps[1], x.shape[3], *padding[2:])
    packed = torch.empty(library.archcost_depthwise_packed_floats(*taps, size, x.shape[1]))
    library.archcost_depthwise_pack(*taps, size, x.shape[1], weight.data_ptr(), packed.data_ptr())
    places = x, packed, bias, addend, expected.shape, padding[::2], activation, threads
    y = run(isa, "fft_depthwise", (*taps, size), *places)
    assert (y - expected).abs().max().item() <= 3e-6 * scale + 1e-6


@pytest.mark.parametrize("isa", kernels.usable_isas())
def test_what_is_no_number_reaches_at_least_the_outputs_that_see_it(isa):
    x, weight = torch.randn(1, 21, 19, 17), torch.randn(33, 21, 3, 3)
    x[0, 20, 7, 7] = inf
    library, tile = loading.library(isa), (WINOGRAD, 4, 0)
    packed = torch.empty(library.archcost_tiles_packed_floats(*tile, 33, 21))
    library.archcost_tiles_pack(*tile, 33, 21, weight.data_ptr(), packed.data_ptr())
    expected = F.conv2d(x, weight, padding=1)
    y = run(isa, "tiles", tile, x, packed, None, None, expected.shape, (1, 1), (CLAMP, -inf, inf), 1)
    assert not y[~expected.isfinite()].isfinite().any()
    assert y[..., 12:, 12:].isfinite().all()
