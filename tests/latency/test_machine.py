"""The machine: its fingerprint, the settings of a measurement, and its roofline."""

import os
import platform
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from archcost import ConvSpec
from archcost.errors import InputError
from archcost.latency.prediction import roofline as of_roofline
from archcost.latency.prediction.roofline import COPY, PRODUCT, Roofline, bytes_moved, measure_roofline
from archcost.latency.store import fingerprint as of_fingerprint
from archcost.latency.store.fingerprint import Fingerprint, fingerprint
from archcost.latency.store.kinds import ROOFLINE
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
from archcost.latency.timing.settings import denormals_flushed, keep_blocks, settings

CHIP = Fingerprint(
    *("A chip", ("avx2", "fma"), 4, (("L1d", 32768), ("L3", 8 * 2**20))),
    *("Linux x86_64", "2.9", "3.1", "0.1.0", None),
)


def test_the_hash_is_short_and_the_same_in_every_process(tmp_path):
    code = "from archcost.latency.store.fingerprint import fingerprint as f; print(f().hash)"
    # Elsewhere than in the source tree, which would be imported in place of what is installed.
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert out.strip() == fingerprint().hash
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


def test_a_convolution_moves_its_input_weights_and_output_once():
    spec = ConvSpec(2, 3, 3, padding=1, input_size=(5, 5), batch=2)
    assert bytes_moved(spec) == 4 * (2 * 2 * 25 + (2 * 3 * 9 + 3) + 2 * 3 * 25)
    assert bytes_moved(spec, itemsize=2) * 2 == bytes_moved(spec)


def test_what_the_store_has_is_not_measured_again(monkeypatch):
    device, store = fingerprint(), Store(":memory:")
    side, numbers = 1000, 5_000_000
    for path, spec in (
        (PRODUCT, ConvSpec(side, side, 1, input_size=(side,), bias=False)),
        (COPY, ConvSpec(1, 1, 1, input_size=(numbers,), bias=False)),
    ):
        key = Key(device.hash, spec, "float32", path, kind=ROOFLINE)
        store.put(Measurement(key, str(device), 0.02, 0.001, 9, 0, "cpu", "2.9"))
    monkeypatch.setattr(of_roofline, "_measured", lambda *_: pytest.fail("measured"))
    line = measure_roofline(store)
    assert line == measure_roofline(store, dtype="fp32") == measure_roofline(store, dtype=torch.float32)
    assert line.macs_per_second == pytest.approx(side**3 / 0.02)
    assert line.bytes_per_second == pytest.approx(2 * 4 * numbers / 0.02)
    with pytest.raises(BaseException, match="measured"):
        measure_roofline(store, threads=3)
    with pytest.raises(BaseException, match="measured"):
        measure_roofline(store, again=True)


def test_what_is_measured_is_kept(monkeypatch):
    monkeypatch.setattr(of_roofline, "_SIDES", (64,))
    monkeypatch.setattr(Fingerprint, "beyond_caches_bytes", 2**16)
    store = Store(":memory:")
    line = measure_roofline(store, seconds=0.01)
    assert sorted(one.key.path for one in store) == [COPY, PRODUCT]
    assert [one.key.spec.macs for one in store] == [2**14, 64**3]
    assert measure_roofline(store) == line
    assert "GMAC/s" in str(line)
