"""Paths from and to blocked tensors: the kernels of the engine, equal to float64."""

import math
from dataclasses import replace

import pytest
import torch

from archcost import ConvSpec, kernels
from archcost.errors import InputError
from archcost.kernels.blocked import BlockedConvolution, from_blocks, lanes, pack_direct, to_blocks
from archcost.paths import Epilogue, available, get
from archcost.paths.accuracy import error_against, exact_convolution

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")

DENSE = ConvSpec(20, 24, 3, padding=1, input_size=(11, 13), batch=2)
DEPTHWISE = ConvSpec(20, 20, 9, padding=4, groups=20, input_size=(12, 14))

ON_BLOCKS = [
    ("direct", DENSE),
    ("direct", replace(DENSE, stride=2, dilation=2)),
    ("direct", replace(DENSE, kernel_size=1, padding=0)),
    ("direct", replace(DENSE, in_channels=3)),
    ("direct", replace(DENSE, in_channels=40, out_channels=48, groups=4)),
    ("direct", DEPTHWISE),
    ("direct", replace(DEPTHWISE, stride=2)),
    ("direct", ConvSpec(20, 24, 5, stride=2, padding=((1, 2),), input_size=(50,))),
    *((f"winograd-{m}", DENSE) for m in (2, 4, 6)),
    ("winograd-4", replace(DENSE, kernel_size=(1, 7), padding=(0, 3))),
    ("winograd-4", replace(DENSE, kernel_size=5, padding=2)),
    ("winograd-4", ConvSpec(20, 24, 3, padding=1, input_size=(50,))),
    ("fft", ConvSpec(20, 24, 31, padding=15, input_size=(100,))),
    ("fft-64", ConvSpec(20, 24, 31, padding=15, input_size=(100,))),
    ("fft-96", ConvSpec(96, 48, 64, padding=32, input_size=(128,))),
    ("fft-rows", DEPTHWISE),
    # Each stride's pixels as channels of their own.
    ("winograd-4", ConvSpec(3, 20, 7, stride=2, padding=3, input_size=(21, 22), batch=2)),
    ("fft-64", ConvSpec(1, 20, 120, stride=4, padding=60, input_size=(300,))),
]
REFUSED = [
    ("direct", replace(DENSE, padding_mode="reflect")),
    ("direct", ConvSpec(8, 8, 3, transposed=True, input_size=(8, 8))),
    ("direct", ConvSpec(8, 8, 3, input_size=(8, 8, 8))),
    ("winograd-4", replace(DENSE, stride=2)),
    ("winograd-4", replace(DENSE, in_channels=32, out_channels=32, groups=2)),
    ("fft-parts", ConvSpec(4, 6, 300, padding=150, input_size=(2000,))),
    ("im2col-tiled", DENSE),
    ("native", DENSE),
]


def tensors_of(spec):
    generator = torch.Generator().manual_seed(0)
    shape = (spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_size)
    if spec.transposed:
        shape = (spec.in_channels, spec.out_channels, *spec.kernel_size)
    weight = torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5
    bias = torch.randn(spec.out_channels, generator=generator)
    return torch.randn(spec.batch, spec.in_channels, *spec.input_size, generator=generator), weight, bias


@pytest.mark.parametrize(("name", "spec"), ON_BLOCKS)
def test_equals_float64(name, spec):
    x, weight, bias = tensors_of(spec)
    assert get(name).reads_blocks(spec)
    call = get(name).on_blocks(get(name).prepare(weight, bias, spec, Epilogue(clamp=(0, math.inf))))
    exact = exact_convolution(x, weight, spec, bias).clamp(0)
    y = call(x if call.plain_input else to_blocks(x))
    assert y.shape[-1] == lanes()
    error = error_against(from_blocks(y, spec.out_channels).view_as(exact), exact)
    assert error <= get(name).stated_error(spec, torch.float32)


@pytest.mark.parametrize("isa", kernels.usable_isas())
def test_padded_lanes_reach_no_result(isa):
    x, weight = torch.randn(1, 5, 6, 7), torch.randn(9, 5, 3, 3)
    call = BlockedConvolution(pack_direct(weight, (1, 1), (1, 1), isa=isa), tuple(x.shape))
    behind = -5 % lanes(isa)
    given = to_blocks(torch.cat([x, torch.full((1, behind, 6, 7), torch.nan)], 1), isa)
    y = from_blocks(call(given, threads=2), 9)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, weight), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "spec"), REFUSED)
def test_a_path_without_such_a_kernel_says_none(name, spec):
    _, weight, bias = tensors_of(spec)
    assert not get(name).reads_blocks(spec)
    assert get(name).on_blocks(get(name).prepare(weight, bias, spec)) is None


def test_none_without_kernels_and_in_other_dtypes():
    assert not get("direct").reads_blocks(DENSE, torch.float64)
    with kernels.disabled():
        assert not any(get(name).reads_blocks(DENSE) for name in available())


def test_another_input_is_refused():
    _, weight, bias = tensors_of(DENSE)
    call = get("winograd-2").on_blocks(get("winograd-2").prepare(weight, bias, DENSE))
    with pytest.raises(InputError, match="expected a contiguous float32 input"):
        call(torch.zeros(1, 2, 3, 4, lanes()))
