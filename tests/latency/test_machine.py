"""The machine: its fingerprint, the settings of a measurement, and its roofline."""

import os
import platform
import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn.functional import conv2d

from archcost import ConvSpec, kernels
from archcost.errors import InputError
from archcost.latency.prediction import roofline as of_roofline
from archcost.latency.prediction.roofline import (
    COPY,
    MULTIPLY_ADD,
    PRODUCT,
    READ,
    Cache,
    Roofline,
    bytes_moved,
    measure_roofline,
)
from archcost.latency.store import fingerprint as of_fingerprint
from archcost.latency.store.fingerprint import Fingerprint, fingerprint
from archcost.latency.store.kinds import ROOFLINE
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import compare_calls
from archcost.latency.timing.settings import denormals_flushed, keep_blocks, settings

CHIP = Fingerprint(
    *("A chip", ("avx2", "fma"), 4, (("L1d", 32768), ("L3", 8 * 2**20))),
    *("Linux x86_64", "2.9", "3.1", "0.1.0", None),
)


def test_the_hash_is_short_and_the_same_in_every_process(only_torch, tmp_path, monkeypatch):
    code = "from archcost.latency.store.fingerprint import fingerprint as f; print(f().hash)"
    # Elsewhere than in the source tree, which would be imported in place of what is installed.
    monkeypatch.chdir(tmp_path)
    assert only_torch.run(code).stdout.strip() == fingerprint().hash
    assert CHIP.hash == "73e7e5f6ed1956d7"


def test_every_part_of_the_fingerprint_is_in_the_hash():
    other = {str: "other", tuple: (("other", 1),), int: 99, type(None): "other"}
    changed = [replace(CHIP, **{one.name: other[type(getattr(CHIP, one.name))]}) for one in fields(CHIP)]
    assert len({CHIP.hash, *(one.hash for one in changed)}) == len(fields(CHIP)) + 1


def test_it_reads_as_a_sentence():
    assert str(CHIP) == (
        "A chip, 4 cores, L1d 32 KiB, L3 8 MiB; Linux x86_64; "
        "torch 2.9, oneDNN 3.1, archcost 0.1.0, kernels none"
    )
    assert str(replace(CHIP, cuda="A card", caches=(), cores=1)).startswith("A card; A chip, 1 core; Linux")
    assert CHIP.last_cache_bytes == 8 * 2**20


def test_this_machine_has_what_pytorch_says():
    found = fingerprint()
    assert found.torch == torch.__version__
    assert f"torch {torch.backends.cpu.get_cpu_capability()}" in found.isa
    assert found.cores == os.cpu_count()
    assert found.onednn[0].isdigit()
    assert found.cuda is None


def test_the_limits_of_the_environment_are_part_of_it():
    limited = of_fingerprint._isa({"flags": "fpu avx2 ht"}, "AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert limited == ("avx2", "torch AVX2", "ONEDNN_MAX_CPU_ISA=AVX2")


def test_caches_are_read_where_the_system_tells(tmp_path):
    for number, (level, kind, size) in enumerate([("1", "Data", "48K"), ("3", "Unified", "105M")]):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()
    assert of_fingerprint._caches(tmp_path) == (("L1d", 48 * 1024), ("L3", 105 * 2**20))
    assert of_fingerprint._caches(Path("/nowhere")) == ()


def test_a_machine_without_cpuinfo_has_a_name(monkeypatch):
    monkeypatch.setattr(of_fingerprint, "_CPUINFO", Path("/nowhere"))
    assert of_fingerprint._cpu_name(of_fingerprint._cpuinfo())
    arm = {"CPU implementer": "0x41", "CPU part": "0xd40"}
    assert of_fingerprint._cpu_name(arm).endswith("(CPU implementer 0x41, CPU part 0xd40)")


def affinities():
    threads = os.listdir("/proc/self/task")
    return {frozenset(os.sched_getaffinity(int(thread))) for thread in threads}


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
def test_settings_are_as_asked_inside_and_as_before_after(raised):
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        with settings(threads=threads + 1):
            assert torch.get_num_threads() == threads + 1
            assert denormals_flushed()
            assert (torch.tensor([1e-40]) * 1).item() == 0
            if raised:
                raise raised
    except KeyboardInterrupt:
        pass
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
    assert not denormals_flushed()
    assert (torch.tensor([1e-40]) * 1).item() != 0


def test_denormals_stay_flushed_where_they_were():
    torch.set_flush_denormal(True)
    try:
        with settings():
            assert denormals_flushed()
        assert denormals_flushed()
    finally:
        torch.set_flush_denormal(False)
    with settings(flush_denormals=False):
        assert not denormals_flushed()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot pin on this platform")
def test_every_thread_is_pinned_and_let_go():
    torch.ones(100).sum()
    before = os.sched_getaffinity(0)
    core = max(before)
    with settings(cores=[core]):
        assert affinities() == {frozenset([core])}
    assert frozenset(before) in affinities()
    assert os.sched_getaffinity(0) == before
    with (
        pytest.raises(InputError, match=r"this process may run on cores .*; got cores 99999"),
        settings(cores=[99999]),
    ):
        pass
    with pytest.raises(InputError, match="got no core"), settings(cores=[]):
        pass


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_blocks_stay_only_when_asked():
    code = (
        "import resource, sys\n"
        "from archcost.latency.timing.settings import keep_blocks\n"
        "if sys.argv[1] == 'keep': assert keep_blocks()\n"
        "def touch(): return len(b'x' * (36 << 20))\n"
        "for _ in range(3): touch()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(8): touch()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )

    def faults(how):
        command = [sys.executable, "-c", code, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < faults("leave") / 10


def test_blocks_are_left_alone_where_the_library_cannot_be_told(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_blocks() is False


LINE = Roofline(50e9, 10e9, 1, "float32", "a machine")


def test_the_attainable_time_is_that_of_the_tighter_limit():
    assert LINE.ridge == 5
    assert LINE.attainable(50e9, 1e9) == pytest.approx(1.0)
    assert LINE.attainable(1e9, 10e9) == pytest.approx(1.0)
    assert (LINE.bound(50e9, 1e9), LINE.bound(1e9, 10e9)) == ("multiplications", "memory")
    assert LINE.share(2.0, 50e9, 1e9) == pytest.approx(0.5)
    with pytest.raises(InputError, match="seconds must be above 0"):
        LINE.share(0, 1, 1)


def test_the_limit_of_few_bytes_is_the_cache_that_holds_them():
    line = replace(LINE, caches=(Cache("L1d", 100, 40e9), Cache("L2", 1000, 20e9)))
    expected = [("L1d", 40e9), ("L2", 20e9), ("memory", 10e9)]
    assert [line.level(moved) for moved in (100, 101, 1001)] == expected
    assert line.attainable(1, 1000) == pytest.approx(1000 / 20e9)
    assert [line.bound(1, moved) for moved in (100, 1000, 1001)] == ["L1d", "L2", "memory"]
    assert line.bound(1e6, 1000) == "multiplications"


def test_a_convolution_moves_its_input_weights_and_output_once():
    spec = ConvSpec(2, 3, 3, padding=1, input_size=(5, 5), batch=2)
    assert bytes_moved(spec) == 4 * (2 * 2 * 25 + (2 * 3 * 9 + 3) + 2 * 3 * 25)
    assert bytes_moved(spec, itemsize=2) * 2 == bytes_moved(spec)


def kept_in(store, seconds, disturbed=False):
    """A store with every limit of the machine, each of a million multiplications or numbers."""
    device, spec = fingerprint(), ConvSpec(1, 1, 1, input_size=(10**6,), bias=False)
    for path, took in seconds.items():
        key = Key(device.hash, spec, "float32", path, kind=ROOFLINE)
        store.put(Measurement(key, str(device), took, took / 20, 9, 0, "cpu", "2.9", disturbed))
    return store


def undisturbed(*args, **options):
    return {name: replace(one, disturbed=False) for name, one in compare_calls(*args, **options).items()}


@pytest.fixture
def small_machine(monkeypatch):
    device = replace(fingerprint(), caches=(("L1d", 2**10), ("L1i", 2**10), ("L2", 2**12)))
    monkeypatch.setattr(of_roofline, "fingerprint", lambda: device)
    monkeypatch.setattr(of_roofline, "_SIDES", (64,))
    monkeypatch.setattr(of_roofline, "compare_calls", undisturbed)
    monkeypatch.setattr(Fingerprint, "beyond_caches_bytes", 2**16)
    return device


def test_what_the_store_has_is_not_measured_again(monkeypatch):
    seconds = {PRODUCT: 2e-5, COPY: 5e-4}
    with kernels.disabled():
        store = kept_in(Store(":memory:"), seconds)
        disturbed = kept_in(Store(":memory:"), seconds, disturbed=True)
        monkeypatch.setattr(of_roofline, "_measured", lambda *_: pytest.fail("measured"))
        line = measure_roofline(store)
        assert line == measure_roofline(store, dtype="fp32") == measure_roofline(store, dtype=torch.float32)
        assert line.macs_per_second == pytest.approx(10**6 / 2e-5)
        assert line.bytes_per_second == pytest.approx(8 * 10**6 / 5e-4)
        assert line.caches == ()
        with pytest.raises(BaseException, match="measured"):
            measure_roofline(store, threads=3)
        with pytest.raises(BaseException, match="measured"):
            measure_roofline(store, again=True)
        with pytest.raises(BaseException, match="measured"):
            measure_roofline(disturbed)
    if kernels.library() is not None:
        with pytest.raises(BaseException, match="measured"):
            measure_roofline(store)


def test_the_faster_of_two_ways_is_the_limit():
    device = replace(fingerprint(), caches=(("L1d", 2**15), ("L1i", 2**15), ("L2", 2**20), ("L3", 2**25)))
    seconds = {PRODUCT: 2e-5, COPY: 5e-4, MULTIPLY_ADD: 1e-5}
    seconds |= {READ + level: 1e-5 * 2**at for at, level in enumerate(("L1d", "L2", "L3", "memory"))}
    store = kept_in(Store(":memory:"), seconds)
    line = of_roofline._roofline({one.key.path: one for one in store}, replace(device), 4)
    assert line.macs_per_second == pytest.approx(10**6 / 1e-5)
    assert line.bytes_per_second == pytest.approx(4 * 10**6 / 8e-5)
    assert [(one.name, one.bytes) for one in line.caches] == [("L1d", 2**15), ("L2", 2**20), ("L3", 2**25)]
    assert line.caches[1].bytes_per_second == pytest.approx(4 * 10**6 / 2e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_measured_is_kept(small_machine, threads):
    store = Store(":memory:")
    line = measure_roofline(store, seconds=0.01, threads=threads)
    found = {one.key.path: one.key.spec.macs for one in store}
    assert (found[COPY], found[PRODUCT]) == (2**14, 64**3)
    if kernels.library() is not None:
        assert found.keys() == {PRODUCT, COPY, MULTIPLY_ADD, *(READ + one for one in ("L1d", "L2", "memory"))}
        assert threads * 2**26 <= found[MULTIPLY_ADD] < threads * 2**26 + 2**11
        assert [(one.name, one.bytes) for one in line.caches] == [("L1d", threads * 2**10), ("L2", 2**12)]
    else:
        assert found.keys() == {PRODUCT, COPY}
    assert measure_roofline(store, threads=threads) == line
    assert "GMAC/s" in str(line)


@pytest.mark.slow
@pytest.mark.skipif(kernels.isa() is None, reason="needs the kernels")
def test_no_layer_is_above_the_peak_and_nearer_caches_are_faster():
    """A quarter is left for a processor that changes its clock between the two."""
    line = measure_roofline(seconds=4.0)
    bandwidths = [one.bytes_per_second for one in line.caches]
    assert bandwidths[0] > 1.2 * bandwidths[1]
    assert bandwidths[0] > 1.5 * line.bytes_per_second
    assert all(1.25 * near >= far for near, far in pairwise([*bandwidths, line.bytes_per_second]))
    dense, pointwise = (
        ConvSpec(256, 256, 3, padding=1, input_size=(28, 28)),
        ConvSpec(256, 64, 1, input_size=(56, 56)),
    )
    for spec in (dense, pointwise):
        x = torch.randn(1, 256, *spec.input_size)
        weight = torch.randn(spec.out_channels, 256, *spec.kernel_size)
        calls = {"layer": lambda x=x, weight=weight, spec=spec: conv2d(x, weight, padding=spec.padding[0])}
        with settings(threads=1), torch.inference_mode():
            found = compare_calls(calls, rounds=15, cpu_clock="thread")["layer"]
        assert 0.05 < line.share(found.median, spec.macs, bytes_moved(spec)) < 1.25


def test_every_instruction_set_counts_what_it_does():
    for isa in kernels.usable_isas():
        library = kernels.library(isa)
        for threads in (1, 2):
            made = library.archcost_multiply_add(1000, threads)
            assert threads * 1000 <= made <= threads * (1000 + 12 * 16)
            numbers = torch.ones(2**12)
            read = library.archcost_read(numbers.data_ptr(), 2**12, 3, threads)
            assert read == 3 * 4 * 2**12
