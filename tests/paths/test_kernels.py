"""Paths behind which compiled kernels stand: when they are chosen, and that they are what was counted."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost import ConvSpec, kernels
from archcost.paths import Epilogue, available, get
from archcost.paths.accuracy import exact_convolution
from archcost.paths.algorithms.fourier import good_length
from archcost.paths.phases import phases

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")


DENSE = ConvSpec(16, 24, 3, padding=1, input_size=(20, 20))
ROW = ConvSpec(16, 24, 31, padding=15, input_size=(200,))
LONG = ConvSpec(4, 6, 300, padding=150, groups=2, input_size=(2000,))
DEPTHWISE = ConvSpec(20, 20, 9, padding=4, groups=20, input_size=(20, 22))

CHOSEN = [
    ("winograd-4", DENSE, "compiled"),
    ("winograd-4", replace(DENSE, padding_mode="reflect"), "compiled"),
    ("winograd-4", replace(DENSE, dilation=2, padding=2), "compiled"),
    ("winograd-2", replace(DENSE, kernel_size=(1, 7), padding=(0, 3)), "compiled"),
    ("winograd-6", replace(DENSE, kernel_size=(7, 1), padding=(3, 0)), "compiled"),
    ("winograd-4", replace(DENSE, stride=2), "partly compiled"),
    ("winograd-4", replace(DENSE, kernel_size=7), "tensor operations"),
    ("winograd-4", replace(DENSE, groups=8), "tensor operations"),
    ("winograd-4", replace(DENSE, in_channels=32, groups=2), "compiled"),
    ("winograd-4", ConvSpec(8, 8, 3, padding=1, input_size=(8, 8, 8)), "tensor operations"),
    ("winograd-4", ConvSpec(8, 8, 3, input_size=(100,)), "compiled"),
    ("fft", ROW, "compiled"),
    ("fft-80", ROW, "compiled"),
    ("fft-64", replace(ROW, stride=4), "compiled"),
    ("fft-1024", replace(ROW, input_size=(5000,)), "tensor operations"),
    ("fft-64", replace(DENSE, kernel_size=(1, 15), padding=(0, 7)), "compiled"),
    ("fft-64", DENSE, "tensor operations"),
    ("fft-rows", DEPTHWISE, "compiled"),
    ("fft-rows", replace(DEPTHWISE, stride=2), "compiled"),
    ("fft-rows", replace(DEPTHWISE, out_channels=40), "tensor operations"),
    ("fft-rows", replace(DEPTHWISE, input_size=(20, 800)), "tensor operations"),
    ("fft-parts", LONG, "compiled"),
    ("fft-parts", replace(LONG, stride=3, dilation=2), "compiled"),
    ("fft-parts", replace(LONG, groups=1), "compiled"),
    ("direct", DENSE, "tensor operations"),
    ("native", DENSE, "PyTorch"),
    ("native-prepacked", DENSE, "PyTorch"),
]


def tensors_of(spec, seed=0):
    """Input, weight and bias under which outputs have variance 1."""
    generator = torch.Generator().manual_seed(seed)
    shape = (spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_size)
    if spec.transposed:
        shape = (spec.in_channels, spec.out_channels // spec.groups, *spec.kernel_size)
    weight = torch.randn(shape, generator=generator)
    weight /= math.sqrt(spec.in_channels // spec.groups * math.prod(spec.kernel_size))
    bias = torch.randn(spec.out_channels, generator=generator)
    return torch.randn(spec.batch, spec.in_channels, *spec.input_size, generator=generator), weight, bias


@needs_kernels
@pytest.mark.parametrize(("name", "spec", "chosen"), CHOSEN)
def test_the_implementation_is_the_one_that_is_said(name, spec, chosen):
    path = get(name)
    assert path.implementation(spec) == chosen
    assert path.implementation(spec, torch.bfloat16) == chosen
    own = "PyTorch" if name.startswith("native") else "tensor operations"
    assert path.implementation(spec, torch.float64) == own
    assert path.implementation(spec, device="cuda") == own
    with kernels.disabled():
        assert path.implementation(spec) == own


@needs_kernels
@pytest.mark.parametrize("thread", [False, True], ids=["here", "in another thread"])
def test_kernels_are_switched_off_here_and_nowhere_else(thread, monkeypatch):
    seen = []
    with kernels.disabled():
        if thread:
            import threading

            other = threading.Thread(target=lambda: seen.append(kernels.library()))
            other.start()
            other.join()
            assert seen != [None]
        assert kernels.library() is None
        assert kernels.isa() is None
        assert kernels.why_not() == "switched off by archcost.kernels.disabled()"
        assert kernels.usable_isas() == ()
    assert kernels.library() is not None
    monkeypatch.setenv("ARCHCOST_NO_KERNELS", "1")
    assert kernels.library() is None
    assert kernels.why_not() == "switched off by ARCHCOST_NO_KERNELS"
    assert get("winograd-4").implementation(DENSE) == "tensor operations"


@st.composite
def served(draw):
    """A path and a convolution that its kernel serves, in one call or by phases."""
    name = draw(st.sampled_from(["winograd-2", "winograd-4", "winograd-6", "fft", "fft-32", "fft-rows"]))
    groups = draw(st.sampled_from([1, 1, 1, 2])) if name != "fft-rows" else 1
    inputs, outputs = groups * draw(st.integers(1, 40)), groups * draw(st.integers(1, 40))
    pads = [(draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2)]
    size = [draw(st.integers(7, 30)) for _ in range(2)]
    shapes = {
        "winograd": [(3, 3), (5, 5), (1, 3), (7, 1), (3,)],
        "fft": [(5,), (31,), (1, 9)],
        "fft-rows": [(7, 7), (9,), (3, 5), (11, 2)],
    }
    kernel = draw(st.sampled_from(shapes[name if name == "fft-rows" else name.split("-")[0]]))
    axes = len(kernel)
    size = [max(n, k) for n, k in zip(size, kernel, strict=False)] if axes == 2 else [size[0] + max(kernel)]
    if name == "fft-rows":
        outputs = inputs
    return name, ConvSpec(
        inputs,
        outputs,
        kernel,
        stride=draw(st.sampled_from([1, 1, 1, 2])),
        dilation=draw(st.sampled_from([1, 1, 1, 2])) if max(kernel) < 7 and axes == 1 else 1,
        padding=tuple(pads[:axes]),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "replicate"])),
        groups=inputs if name == "fft-rows" else groups,
        input_size=tuple(size),
        batch=draw(st.integers(1, 3)),
    )


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    served(),
    st.sampled_from([None, (0.0, math.inf), (0.0, 1.0), (-0.5, 0.25)]),
    st.sampled_from([None, torch.contiguous_format, torch.channels_last]),
    st.sampled_from(["contiguous", "channels_last", "strided", "flipped"]),
)
def test_both_implementations_equal_the_definition(case, clamp, memory_format, layout):
    name, spec = case
    path = get(name)
    if path.supports(spec) is not None:
        return
    axes = len(spec.input_size)
    memory_format = memory_format if axes == 2 else None
    x, weight, bias = tensors_of(spec)
    if layout == "channels_last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    elif layout == "strided":
        x = x.repeat_interleave(2, -1)[..., ::2]
    elif layout == "flipped":
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    expected = exact_convolution(x, weight, spec, bias)
    most = path.stated_error(spec, torch.float32) * max(1.0, expected.abs().max().item())
    expected = expected if clamp is None else expected.clamp(*clamp)
    epilogue = Epilogue(clamp, memory_format)

    def check():
        y = path.run(x, path.prepare(weight, bias, spec, epilogue))
        assert (y - expected).abs().max() <= most
        if memory_format is not None:
            assert y.is_contiguous(memory_format=memory_format)
        elif layout == "contiguous":
            assert y.is_contiguous()
        elif layout == "channels_last" and axes == 2 and spec.in_channels > 1:
            assert y.is_contiguous(memory_format=torch.channels_last)

    check()
    with kernels.disabled():
        check()


@needs_kernels
@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("winograd-2", DENSE),
        ("winograd-4", replace(DENSE, kernel_size=5, padding=2)),
        ("winograd-6", replace(DENSE, kernel_size=(1, 7))),
        ("fft-64", ROW),
        ("fft", ROW),
        ("fft-rows", DEPTHWISE),
    ],
)
def test_the_kernel_multiplies_as_often_as_is_counted(name, spec):
    """Its packed weights hold one number for each product of a tile and a pair of channels."""
    spec = replace(spec, out_channels=spec.groups if name == "fft-rows" else 64)
    path = get(name)
    _, weight, bias = tensors_of(spec)
    packed = path.prepare(weight, bias, spec).content.packed
    (phase,) = phases(spec)
    if packed.kind == "tiles":
        tiles = math.prod(
            -(-n // m)
            for n, m in zip(phase.dense.output_size, packed.own[3:][-len(spec.kernel_size) :], strict=True)
        )
        assert tiles * packed.data.numel() == path.multiplications(spec)
    else:
        height, width = spec.output_size
        frequencies = packed.own[0] // 2 + 1
        assert 4 * height * 9 * frequencies * spec.groups == path.multiplications(spec)
        assert packed.own[0] == good_length(width + 4)


@needs_kernels
@pytest.mark.parametrize(
    ("name", "spec"), [("winograd-4", DENSE), ("fft-80", ROW), ("fft-rows", DEPTHWISE), ("fft-parts", LONG)]
)
def test_the_workspace_of_a_kernel_is_what_it_takes(name, spec):
    path = get(name)
    x, weight, bias = tensors_of(spec)
    prepared = path.prepare(weight, bias, spec)
    kernels.release_scratch()
    path.run(x, prepared)
    scratch = path.workspace_bytes(spec) - prepared.content.packed.bytes
    # It is kept in huge pages.
    assert kernels.scratch_bytes_kept() - 2**21 < scratch <= kernels.scratch_bytes_kept()
    with kernels.disabled():
        without = path.workspace_bytes(spec)
    assert path.workspace_bytes(spec, itemsize=8) == 2 * without


@needs_kernels
def test_transforms_have_the_same_lengths_in_both():
    for n in range(1, 513):
        assert good_length(n) == kernels.fft_size(n)
    assert good_length(513) == 540
    for name in available():
        if name.startswith("fft-") and name[4:].isdigit():
            assert good_length(int(name[4:])) == int(name[4:])


@needs_kernels
def test_a_kernel_costs_no_copy_of_the_input():
    """Zeros are padded by the kernel itself: nothing as large as the input is allocated on the way."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x, weight, bias = tensors_of(DENSE)
    path = get("winograd-4")
    prepared = path.prepare(weight, bias, DENSE, Epilogue((0.0, 6.0)))
    with Operators():
        path.run(x, prepared)
    assert set(seen) == {"aten.detach.default", "archcost.convolve.default"}
