"""Partitioned overlap-save: exact in every ISA and at every border, counted as it is, found where it pays."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import archcost
from archcost import ConvSpec, InputError, kernels
from archcost.latency.layers import NOT_FASTER, verdict_of
from archcost.latency.paths import PathTimes
from archcost.latency.store.measurement import Measurement
from archcost.paths import available, get
from archcost.paths.accuracy import error_against, exact_convolution
from archcost.paths.likely import likely

LONG = ConvSpec(1, 1, 8000, bias=False, input_size=(48000,))
needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="needs the compiled kernels")


def tensors_of(spec):
    generator = torch.Generator().manual_seed(0)
    shape = (spec.out_channels, spec.in_channels // spec.groups)
    if spec.transposed:
        shape = (spec.in_channels, spec.out_channels // spec.groups)
    weight = torch.randn(*shape, *spec.kernel_size, generator=generator)
    bias = torch.randn(spec.out_channels, generator=generator) if spec.bias else None
    return torch.randn(spec.batch, spec.in_channels, *spec.input_size, generator=generator), weight, bias


@pytest.mark.parametrize("tier", ["kernels", "tensors"])
@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(1, 1, 2000, bias=False, input_size=(9000,)),
        ConvSpec(3, 5, 100, padding=50, input_size=(777,), batch=2),
        ConvSpec(4, 8, 300, groups=4, padding=((299, 0),), input_size=(2000,)),
        ConvSpec(6, 6, 129, groups=3, stride=2, input_size=(1000,)),
        ConvSpec(4, 4, 200, dilation=3, padding_mode="circular", padding=40, input_size=(700,)),
        ConvSpec(2, 3, 256, transposed=True, stride=4, padding=2, input_size=(500,)),
        ConvSpec(2, 2, 64, input_size=(64,)),
    ],
    ids=lambda spec: "x".join(map(str, (spec.in_channels, *spec.kernel_size))),
)
def test_it_is_as_exact_as_it_says(spec, tier, monkeypatch):
    if tier == "tensors":
        monkeypatch.setenv("ARCHCOST_NO_KERNELS", "1")
    x, weight, bias = tensors_of(spec)
    path = get("fft-parts")
    with torch.no_grad():
        y = path.run(x, path.prepare(weight, bias, spec))
    assert error_against(y, exact_convolution(x, weight, spec, bias)) < path.stated_error(spec, torch.float32)


@needs_kernels
@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_kernel_agrees_with_float64_whatever_the_sizes(isa, data):
    step, threads = data.draw(st.sampled_from([2, 10, 32, 96, 256])), data.draw(st.sampled_from([1, 2]))
    taps, groups = data.draw(st.integers(1, 600)), data.draw(st.sampled_from([1, 2]))
    ins, outs = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    low, high = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
    width = max(1, taps - low - high) + data.draw(st.integers(0, 900))
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, ins, width), torch.randn(outs, ins // groups, taps), torch.randn(outs)
    exact = F.conv1d(F.pad(x.double(), (low, high)), weight.double(), bias.double(), groups=groups)
    packed = kernels.pack_long_row(weight, step, groups, isa)
    y = kernels.run(x, packed, bias, padding=((low, high),), threads=threads)
    assert y.shape == exact.shape
    assert (y - exact).abs().max() <= 1e-5 * exact.abs().max().clamp(min=1)
    limited = kernels.run(x.mT.contiguous().mT, packed, bias, padding=((low, high),), clamp=(0.0, 1.0))
    assert torch.equal(limited, y.clamp(0.0, 1.0))


@needs_kernels
def test_what_the_kernel_cannot_do_is_refused():
    weight = torch.randn(2, 1, 100)
    with pytest.raises(InputError, match="no transform of 1024 for frames 512 pixels apart"):
        kernels.pack_long_row(weight, 512)
    with pytest.raises(InputError, match="weights of 3 groups"):
        kernels.pack_long_row(weight, 32, groups=3)
    with pytest.raises(InputError, match="a sequence has 3 dimensions"):
        kernels.run(torch.randn(1, 1, 8, 200), kernels.pack_long_row(weight, 32))


@needs_kernels
def test_the_packed_weights_hold_what_is_multiplied():
    _, weight, bias = tensors_of(LONG)
    path = get("fft-parts")
    packed = path.prepare(weight, bias, LONG).content.packed
    frames = math.ceil(LONG.output_size[0] / packed.own[0])
    assert frames * 2 * packed.data.numel() == path.multiplications(LONG)
    # 2 real numbers a frequency and part; a complex product takes 4 real ones.
    assert packed.data.numel() == 2 * (packed.own[0] + 1) * math.ceil(8000 / packed.own[0])


def test_a_long_kernel_multiplies_fifty_times_less_than_the_definition():
    path = get("fft-parts")
    assert 50 * (path.multiplications(LONG) + path.transform_multiplications(LONG)) < LONG.macs


# Candidates by default


def of_default(spec):
    ways = [get(name) for name in available() if get(name).supports(spec, torch.float32) is None]
    return likely(spec, ways, torch.float32)


def test_what_multiplies_five_times_less_is_a_candidate_by_default_kernel_or_not():
    for kernel in (8000, 2000, 700):
        spec = replace(LONG, kernel_size=kernel)
        kept, _ = of_default(spec)
        assert {"fft", "fft-parts"} <= {path.name for path in kept}
    for spec in (LONG, ConvSpec(64, 64, 15, padding=7, input_size=(56, 56))):
        kept, refused = of_default(spec)
        for path in kept:
            count = path.multiplications(spec) + path.transform_multiplications(spec)
            if path.implementation(spec) == "tensor operations" and not path.reads_blocks(spec):
                assert 5 * count <= spec.macs
        for name, why in refused.items():
            count = get(name).multiplications(spec) + get(name).transform_multiplications(spec)
            assert 5 * count > spec.macs or "others of its kind multiply less" in why
    kept, refused = of_default(LONG)
    assert refused["direct"] == refused["im2col-tiled"] == "another path multiplies 20 times less"
    kept, refused = of_default(ConvSpec(64, 64, 3, padding=1, input_size=(56, 56)))
    assert "im2col" not in {path.name for path in kept}
    assert refused["fft"] == "no compiled kernel runs it here"


def test_the_verdict_says_that_some_were_not_timed():
    task = archcost.latency.convolutions.ConvTask(LONG, "float32")
    timed = archcost.latency.store.measurement.Key("here", LONG, "float32", "native")
    native = Measurement(timed, "here", 1.0, 0.0, 25, 0, "cpu", torch.__version__)
    no = {
        "fft-64": "no compiled kernel runs it here; paths='all' times it",
        "direct": "no compiled kernel runs it here",
    }
    said = verdict_of(PathTimes(task, (native,), {"native": 0.0}, no)).note
    assert said == f"{NOT_FASTER}; 2 without a compiled kernel were not timed"
    assert "that was timed" in said
    assert verdict_of(PathTimes(task, (native,), {"native": 0.0}, {"fft": "it failed"})).note == NOT_FASTER


def with_a_long_kernel():
    """The times are some hundred apart: no clock can mistake them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 1, 1000, bias=False)).eval(), torch.randn(1, 1, 5000)


@needs_kernels
def test_a_model_with_a_long_kernel_is_measured_by_it(no_roofline):
    model, x = with_a_long_kernel()
    found = archcost.measure(model, x, seconds=30, threads=1, store=False, in_context=False)
    assert found["0"].best_path in ("fft", "fft-parts")
    assert found["0"].speedup > 5
