"""Fingerprint: the processor, system and software for which a measurement is valid.

Left out on purpose, because they change while the machine stays the same: memory size, the clock speed of the
moment, the kernel's patch level, the host's name.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["Fingerprint", "fingerprint"]

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# The instruction sets that convolutions are written for.
_ISAS = frozenset(
    "sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16 "
    "avx512_fp16 amx_tile amx_bf16 amx_int8 amx_fp16 asimd asimdhp asimddp asimdfhm i8mm bf16 sve sve2 sme"
    "".split()
)


@dataclass(frozen=True)
class Fingerprint:
    """The machine and software of a measurement: times with equal fingerprints may be compared."""

    cpu: str
    """The processor's name and model numbers."""
    isa: tuple[str, ...]
    """The instruction sets that convolutions use, and those that PyTorch and oneDNN are limited to."""
    cores: int
    """The number of logical processors."""
    caches: tuple[tuple[str, int], ...]
    """Name and bytes of each cache of a core, where the system tells."""
    system: str
    torch: str
    onednn: str
    archcost: str
    kernels: str | None
    """The instruction set of archcost's compiled kernels and a digest of their sources; None without any."""
    cuda: str | None = None
    """The name of the CUDA device; None for the CPU."""

    @property
    def hash(self) -> str:
        """The key in the store: 16 hexadecimal digits, the same in every process and version of Python."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def last_cache_bytes(self) -> int:
        """Bytes of the largest cache; 0 where the system does not tell."""
        return max((size for _, size in self.caches), default=0)

    @property
    def beyond_caches_bytes(self) -> int:
        """Bytes of a buffer that no cache holds: twice the largest cache, between 32 and 512 MiB."""
        return min(2**29, max(2**25, 2 * self.last_cache_bytes))

    def __str__(self) -> str:
        caches = ", ".join(f"{name} {_binary(size)}" for name, size in self.caches)
        processor = f"{self.cpu}, {self.cores} core{'s' * (self.cores != 1)}" + (f", {caches}" * bool(caches))
        software = f"torch {self.torch}, oneDNN {self.onednn}, archcost {self.archcost}"
        where = f"{self.cuda}; {processor}" if self.cuda else processor
        return f"{where}; {self.system}; {software}, kernels {self.kernels or 'none'}"


@lru_cache(maxsize=8)
def fingerprint(device: str = "cpu") -> Fingerprint:
    """The fingerprint of this machine now; ``device`` is where the model runs, as in ``"cuda:0"``."""
    from importlib.metadata import version

    import torch

    facts = _cpuinfo()
    return Fingerprint(
        cpu=_cpu_name(facts),
        isa=_isa(facts, torch.backends.cpu.get_cpu_capability(), os.environ),
        cores=os.cpu_count() or 1,
        caches=_caches(_CACHES),
        system=" ".join(filter(None, [platform.system(), platform.machine(), *platform.libc_ver()])),
        torch=str(torch.__version__),
        onednn=_onednn(torch.__config__.show()),
        archcost=version("archcost"),
        kernels=_kernels(),
        cuda=torch.cuda.get_device_name(device) if str(device).startswith("cuda") else None,
    )


def _kernels() -> str | None:
    from archcost import kernels

    library = kernels.library()
    return None if library is None else f"{kernels.isa()} {library.archcost_sources().decode()[:8]}"


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty elsewhere."""
    try:
        block = _CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cpu_name(facts: dict[str, str]) -> str:
    """The processor's name and model numbers: a virtual machine's name may be just "Xeon Processor"."""
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model", "stepping") if key in facts]
    numbers += [f"{key} {facts[key]}" for key in ("CPU implementer", "CPU part") if key in facts]
    name = facts.get("model name") or facts.get("Hardware") or _named_by_system()
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _named_by_system() -> str:
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    return platform.processor() or platform.machine() or "unknown processor"


def _isa(facts: dict[str, str], capability: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    limits = [f"{name}={environment[name]}" for name in ("ONEDNN_MAX_CPU_ISA",) if environment.get(name)]
    return (*sorted(flags & _ISAS), f"torch {capability}", *limits)


def _caches(folder: Path) -> tuple[tuple[str, int], ...]:
    found = []
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            found.append((f"L{level}{_KINDS.get(kind, '')}", _bytes(size)))
        except (OSError, ValueError):
            continue
    return tuple(found)


_KINDS = {"Data": "d", "Instruction": "i"}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def _bytes(text: str) -> int:
    unit = _UNITS.get(text[-1:], 1)
    return int(text[:-1] if unit > 1 else text) * unit


def _binary(size: int) -> str:
    unit = next((name for name in "GMK" if size >= _UNITS[name]), "")
    return f"{size / _UNITS.get(unit, 1):g} {unit and unit + 'i'}B"


def _onednn(shown: str) -> str:
    """The version in PyTorch's build settings: ``Intel(R) MKL-DNN v3.12.0 (Git Hash ...)``."""
    for line in shown.splitlines():
        if "DNN v" in line:
            return line.partition("DNN v")[2].split()[0]
    return "none"
