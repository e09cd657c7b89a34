"""The compiled kernels: each equals the definition of a convolution within its error, and spoils nothing."""

import math
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost import kernels
from archcost.errors import InputError
from archcost.kernels import build, loading

HERE = Path(__file__).parent

# Relative to the largest output; random weights, inputs of unit variance. By outputs and taps of an axis.
WINOGRAD_ERRORS = {(2, 2): 1e-5, (4, 2): 3e-5, (6, 2): 1e-4, (2, 4): 3e-5, (4, 4): 1e-4, (6, 4): 2e-4}
WINOGRAD_ERRORS |= {(2, 3): 1e-5, (4, 3): 5e-5, (6, 3): 1e-4, (2, 5): 5e-5, (4, 5): 1e-4, (6, 5): 3e-4}
ONE_AXIS_ERROR = 1e-4
FOURIER_ERROR = 2e-6
DIRECT_ERROR = 1e-5

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")


def compiler_works():
    try:
        return (
            subprocess.run([*build.compiler(), "--version"], capture_output=True, check=False).returncode == 0
        )
    except (build.BuildError, OSError):
        return False


@pytest.mark.skipif(not compiler_works(), reason="there is no C++ compiler")
@pytest.mark.skipif("ARCHCOST_NO_KERNELS" in os.environ, reason="switched off by ARCHCOST_NO_KERNELS")
def test_where_there_is_a_compiler_the_kernels_are_built_and_load():
    assert kernels.library() is not None, kernels.why_not()
    assert kernels.why_not() is None
    assert kernels.isa() == kernels.usable_isas()[-1]


def random_layer(draw_int, taps, *, channels_last, depthwise=False):
    """Odd sizes, channels that fill no vector, uneven padding."""
    batch, in_channels = draw_int(1, 3), draw_int(1, 40)
    out_channels = in_channels if depthwise else draw_int(1, 70)
    size = [draw_int(t, t + 33) for t in taps]
    padding = [(draw_int(0, t - 1), draw_int(0, t - 1)) for t in taps]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(batch, in_channels, *size).contiguous(memory_format=layout)
    weight = torch.randn(out_channels, 1 if depthwise else in_channels, *taps)
    return x, weight, torch.randn(out_channels), padding


def definition(x, weight, bias, padding, clamp=None, stride=1, dilation=1):
    (top, bottom), (left, right) = padding
    groups = x.shape[1] // weight.shape[1]
    padded = F.pad(x.double(), (left, right, top, bottom))
    offset = None if bias is None else bias.double()
    y = F.conv2d(padded, weight.double(), offset, stride, 0, dilation, groups)
    return y.clamp(*clamp) if clamp else y


def relative_error(y, expected):
    return ((y - expected).abs().max() / expected.abs().max().clamp_min(1e-6)).item()


def winograd_error(tile):
    pairs = set(zip(tile.outputs, tile.taps, strict=True))
    return WINOGRAD_ERRORS[pairs.pop()] if len(pairs) == 1 else ONE_AXIS_ERROR


clamps = st.sampled_from([None, (0.0, math.inf), (0.0, 6.0), (-1.0, 1.0)])
layers = given(data=st.data(), channels_last=st.booleans(), clamp=clamps, biased=st.booleans())


def check(convolve, packed, layer, clamp, biased, threads, allowed, **steps):
    x, weight, bias, padding = layer
    bias = bias if biased else None
    before = [tensor.clone() for tensor in (x, weight)]
    y = convolve(x, packed, bias, padding=padding, clamp=clamp, threads=threads, **steps)
    expected = definition(x, weight, bias, padding, clamp, **steps)
    # A lone output may be near zero by cancellation: then its size is that of a sum of random signs.
    spread = definition(x.square(), weight.square(), None, padding, **steps).sqrt().max()
    assert (y - expected).abs().max() < allowed * max(expected.abs().max(), spread, 1e-6)
    assert all(torch.equal(*pair) for pair in zip((x, weight), before, strict=True))
    if x.shape[1] > 1 and y.shape[1] > 1:
        assert y.stride(1) == 1 or x.stride(1) != 1


@needs_kernels
@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=80, deadline=None, derandomize=True)
@layers
def test_winograd_equals_the_definition(isa, data, channels_last, clamp, biased):
    tile = data.draw(st.sampled_from(kernels.winograd_tiles()))
    threads = data.draw(st.integers(1, 2))
    layer = random_layer(lambda a, b: data.draw(st.integers(a, b)), tile.taps, channels_last=channels_last)
    packed = kernels.pack_winograd(layer[1], tile.outputs, isa)
    check(kernels.run, packed, layer, clamp, biased, threads, winograd_error(tile))


@needs_kernels
@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=30, deadline=None, derandomize=True)
@layers
def test_fourier_tiles_equal_the_definition(isa, data, channels_last, clamp, biased):
    taps = data.draw(st.integers(1, 140))
    size = kernels.fft_size(taps + data.draw(st.integers(0, 100)))
    threads = data.draw(st.integers(1, 2))
    layer = random_layer(lambda a, b: data.draw(st.integers(a, b)), (1, taps), channels_last=channels_last)
    packed = kernels.pack_fourier(layer[1], size, isa)
    check(kernels.run, packed, layer, clamp, biased, threads, FOURIER_ERROR)


@needs_kernels
@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=30, deadline=None, derandomize=True)
@layers
def test_large_depthwise_kernels_equal_the_definition(isa, data, channels_last, clamp, biased):
    taps = (data.draw(st.integers(1, 31)), data.draw(st.integers(1, 31)))
    threads = data.draw(st.integers(1, 2))
    layer = random_layer(
        lambda a, b: data.draw(st.integers(a, b)), taps, channels_last=channels_last, depthwise=True
    )
    packed = kernels.pack_depthwise(layer[1], layer[0].shape[3], padding=layer[3], isa=isa)
    check(kernels.run, packed, layer, clamp, biased, threads, FOURIER_ERROR)


@needs_kernels
@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=80, deadline=None, derandomize=True)
@layers
def test_im2col_equals_the_definition(isa, data, channels_last, clamp, biased):
    def draw_int(low, high):
        return data.draw(st.integers(low, high))

    taps = data.draw(st.sampled_from([(1, 1), (draw_int(1, 7), draw_int(1, 7)), (1, draw_int(1, 90))]))
    dilation, stride = ((draw_int(1, 3), draw_int(1, 3)) for _ in range(2))
    spread = [(taps[axis] - 1) * dilation[axis] + 1 for axis in range(2)]
    x, _, _, padding = random_layer(draw_int, spread, channels_last=channels_last)
    # Few channels, whole vectors of them, and any number take different ways.
    channels = data.draw(st.sampled_from([1, 3, 16, 32, x.shape[1]]))
    x = x.repeat(1, 33, 1, 1)[:, :channels]
    out_channels = data.draw(st.sampled_from([16, 32, draw_int(1, 70)]))
    layer = x, torch.randn(out_channels, channels, *taps), torch.randn(out_channels), padding
    blocks = data.draw(st.sampled_from([0, draw_int(1, 300)]))
    convolve = partial(kernels.run, block_tiles=blocks)
    packed = kernels.pack_im2col(layer[1], isa)
    steps = {"stride": stride, "dilation": dilation}
    check(convolve, packed, layer, clamp, biased, draw_int(1, 2), DIRECT_ERROR, **steps)


@needs_kernels
@pytest.mark.parametrize("isa", kernels.usable_isas())
@settings(max_examples=80, deadline=None, derandomize=True)
@layers
def test_small_depthwise_kernels_equal_the_definition(isa, data, channels_last, clamp, biased):
    def draw_int(low, high):
        return data.draw(st.integers(low, high))

    taps = (draw_int(1, 7), data.draw(st.sampled_from([1, 3, 3, 5, 7, draw_int(1, 9)])))
    dilation, stride = data.draw(st.sampled_from([1, 1, 2])), draw_int(1, 3)
    spread = [(tap - 1) * dilation + 1 for tap in taps]
    x, _, bias, padding = random_layer(draw_int, spread, channels_last=channels_last, depthwise=True)
    layer = x, torch.randn(x.shape[1], 1, *taps), bias, padding
    packed = kernels.pack_depthwise_direct(layer[1], isa)
    steps = {"stride": stride, "dilation": dilation}
    check(kernels.run, packed, layer, clamp, biased, draw_int(1, 2), DIRECT_ERROR, **steps)


@needs_kernels
def test_a_sequence_is_an_image_of_one_row():
    x, weight = torch.randn(2, 20, 100), torch.randn(33, 20, 5)
    expected = F.conv1d(x.double(), weight.double(), padding=2)
    y = kernels.run(x, kernels.pack_winograd(weight, 4), padding=2)
    assert y.shape == expected.shape
    assert relative_error(y, expected) < ONE_AXIS_ERROR
    y = kernels.run(x, kernels.pack_fourier(weight, 32), padding=2)
    assert relative_error(y, expected) < FOURIER_ERROR
    y = kernels.run(x, kernels.pack_im2col(weight), padding=4, stride=3, dilation=2)
    assert relative_error(y, F.conv1d(x.double(), weight.double(), None, 3, 4, 2)) < DIRECT_ERROR
    weight = weight[:20, :1]
    y = kernels.run(x, kernels.pack_depthwise_direct(weight), padding=4, stride=3, dilation=2)
    expected = F.conv1d(x.double(), weight.double(), None, 3, 4, 2, 20)
    assert y.shape == expected.shape
    assert relative_error(y, expected) < DIRECT_ERROR


@needs_kernels
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 3:20],
        lambda x: x[:, :, 1:, 2:-1],
        lambda x: x[:, :, ::2, ::2],
        lambda x: x.transpose(2, 3),
        lambda x: x[:1].expand(3, -1, -1, -1),
        lambda x: x.contiguous(memory_format=torch.channels_last)[:, 3:20, 1:, ::2],
    ],
)
def test_any_view_is_read_as_it_is(view):
    x = view(torch.randn(2, 24, 20, 22))
    weight = torch.randn(17, x.shape[1], 3, 3)
    y = kernels.run(x, kernels.pack_winograd(weight, 4), padding=1)
    expected = definition(x, weight, None, [(1, 1), (1, 1)], False)
    assert relative_error(y, expected) < WINOGRAD_ERRORS[4, 3]


@needs_kernels
@pytest.mark.parametrize("block_tiles", [1, 3, 50, 10_000])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_blocks_and_threads_change_nothing(block_tiles, threads):
    x, weight = torch.randn(2, 40, 19, 23), torch.randn(50, 40, 3, 3)
    packed = kernels.pack_winograd(weight, 2)
    y = kernels.run(x, packed, padding=1, threads=threads, block_tiles=block_tiles)
    assert torch.equal(y, kernels.run(x, packed, padding=1, threads=1))


@needs_kernels
@pytest.mark.parametrize("to", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of", [torch.contiguous_format, torch.channels_last])
def test_input_and_output_may_lie_differently_in_memory(of, to):
    x, weight = torch.randn(2, 20, 9, 11).contiguous(memory_format=of), torch.randn(20, 20, 3, 3)
    winograd, large = kernels.pack_winograd(weight, 4), kernels.pack_depthwise(weight[:, :1], 11, padding=1)
    for y, expected in (
        (kernels.run(x, winograd, padding=1, memory_format=to), F.conv2d(x, weight, padding=1)),
        (
            kernels.run(x, large, padding=1, memory_format=to),
            F.conv2d(x, weight[:, :1], padding=1, groups=20),
        ),
    ):
        assert y.is_contiguous(memory_format=to)
        assert relative_error(y, expected) < 1e-5


@needs_kernels
def test_what_is_not_a_number_is_not_hidden_by_a_clamp():
    x = torch.full((1, 1, 5, 5), torch.nan)
    packed = kernels.pack_winograd(torch.ones(1, 1, 3, 3), 2)
    assert kernels.run(x, packed, padding=1, clamp=(0, 6)).isnan().all()


@needs_kernels
def test_what_a_kernel_cannot_do_is_refused_with_the_reason():
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(5, 4, 3, 3)
    packed = kernels.pack_winograd(weight, 2)
    with pytest.raises(InputError, match="the weights are for 4 channels, the input has 3"):
        kernels.run(x[:, :3], packed)
    with pytest.raises(InputError, match=r"must be float32 on the CPU, got torch\.float64"):
        kernels.run(x.double(), packed)
    with pytest.raises(InputError, match="3x3 taps do not fit the input"):
        kernels.run(x[:, :, :2], packed)
    with pytest.raises(
        InputError, match=r"there is no F\(3x3, 3x3\); for these taps there are: F\(2x2, 3x3\)"
    ):
        kernels.pack_winograd(weight, 3)
    with pytest.raises(InputError, match="bias must have 5 values"):
        kernels.run(x, packed, torch.zeros(4))
    with pytest.raises(InputError, match="no transform of size 14"):
        kernels.pack_fourier(torch.randn(5, 4, 3), 14)


@needs_kernels
def test_a_forked_process_has_threads_of_its_own():
    # So small that PyTorch uses no threads of its own: its OpenMP does not survive the fork.
    x, weight = torch.randn(2, 8, 20, 20), torch.randn(16, 8, 3, 3)
    packed = kernels.pack_winograd(weight, 4)
    y = kernels.run(x, packed, threads=2)
    child = os.fork()
    if child == 0:
        same = torch.equal(y, kernels.run(x, packed, threads=2))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


@needs_kernels
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_kernels_run_on_the_threads_that_pytorch_has(only_torch, tmp_path, monkeypatch):
    # Two pools that both wait without sleeping keep the processors from each other.
    script = (
        "import os, torch; from archcost import kernels; torch.set_num_threads(2)\n"
        "x, weight = torch.randn(2, 64, 56, 56), torch.randn(64, 64, 3, 3)\n"
        "torch.relu(x); before = len(os.listdir('/proc/self/task'))\n"
        "kernels.run(x, kernels.pack_winograd(weight, 4), threads=2)\n"
        "print(before, len(os.listdir('/proc/self/task')))"
    )
    # Elsewhere than in a checkout, whose own folder would be imported.
    monkeypatch.chdir(tmp_path)
    before, after = map(int, only_torch.run(script).stdout.split())
    assert after == before >= 2


@needs_kernels
def test_working_memory_is_kept_and_can_be_given_back():
    x, weight = torch.randn(1, 32, 20, 20), torch.randn(32, 32, 3, 3)
    packed = kernels.pack_winograd(weight, 4)
    kernels.run(x, packed)
    assert kernels.scratch_bytes_kept() >= kernels.scratch_bytes(x, packed) > 0
    kernels.release_scratch()
    assert kernels.scratch_bytes_kept() == 0


def test_kernels_can_be_switched_off():
    script = "from archcost import kernels; print(kernels.library(), kernels.isa(), kernels.why_not())"
    switched = {**os.environ, "ARCHCOST_NO_KERNELS": "1"}
    said = subprocess.run(
        [sys.executable, "-c", script], env=switched, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "None None switched off by ARCHCOST_NO_KERNELS"


@needs_kernels
def test_kernels_of_other_sources_are_noticed_and_not_called(monkeypatch):
    caches = loading._open, loading._installed
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(build, "digest", lambda: "of other sources")
    try:
        assert kernels.library() is None
        assert re.search(r"built from other sources; `python -m archcost\.kernels\.build`", kernels.why_not())
    finally:
        for cache in caches:
            cache.cache_clear()
    monkeypatch.undo()
    assert kernels.library() is not None


def test_without_a_compiler_the_build_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler found"):
        build.build(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match="cannot run the compiler 'no-such-compiler'"):
        build.build(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not compiler_works(), reason="there is no C++ compiler")
@pytest.mark.parametrize("isa", kernels.usable_isas() or ["baseline"])
def test_the_kernels_touch_no_memory_but_their_own(isa, tmp_path):
    """Their own C++ check, with the address and the undefined-behaviour sanitizers."""
    sanitized = ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"]
    said = subprocess.run([*build.compiler(), "--version"], capture_output=True, text=True, check=False)
    if "Free Software Foundation" in said.stdout:  # calls in place of checks compile in half the time
        sanitized += ["--param", "asan-instrumentation-with-call-threshold=0"]
    flags = ["-std=c++17", "-O1", *build.isas().get(isa, []), *sanitized, f"-I{build.SOURCES}"]

    def compiled(source):
        command = [*build.compiler(), *flags, "-c", str(source), "-o", str(tmp_path / f"{source.stem}.o")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(compiled, [*build.SOURCES.glob("*.cpp"), *HERE.glob("check*.cpp")]):
            assert done.returncode == 0, done.stderr
    program, objects = str(tmp_path / "check"), map(str, tmp_path.glob("*.o"))
    linking = [*build.compiler(), *sanitized, "-o", program, *objects, "-ldl"]
    linked = subprocess.run(linking, capture_output=True, text=True, check=False)
    if "cannot find" in linked.stderr and shutil.which("ld"):
        pytest.skip("this compiler has no sanitizers")
    assert linked.returncode == 0, linked.stderr
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(not compiler_works(), reason="there is no C++ compiler")
def test_the_kernels_compile_where_64_bits_are_no_long(tmp_path):
    """On macOS they are a `long long`, and std::min does not choose between the two."""
    for source in build.SOURCES.iterdir():
        changed = source.read_text(encoding="utf-8").replace("std::int64_t", "LongLong")
        (tmp_path / source.name).write_text("typedef long long LongLong;\n" + changed, encoding="utf-8")
    command = [*build.compiler(), "-std=c++17", "-fsyntax-only", *map(str, tmp_path.glob("*.cpp"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(shutil.which, ("aarch64-linux-gnu-g++", "qemu-aarch64"))),
    reason="there is no compiler for ARM or no emulator: `.ci/neon --install`",
)
def test_the_kernels_are_right_on_arm():
    """The same check, by four lanes of NEON."""
    ran = subprocess.run([HERE.parents[1] / ".ci/neon"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "all right" in ran.stdout
