"""Compiles the kernels: one shared library for each set of instructions, with nothing but a C++ compiler.

``python -m archcost.kernels.build`` builds them in place, for an editable install; the build hook of the
package (``hatch_build.py``) calls the same function. Only the standard library is imported: this
file also runs where neither torch nor archcost is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
LIBRARIES = Path(__file__).parent / "_lib"
FAILURE = "why_not.txt"

_X86 = {
    "baseline": ["-march=x86-64"],
    "avx2": ["-mavx2", "-mfma", "-mtune=haswell"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
        *("-mtune=skylake-avx512", "-mprefer-vector-width=512"),
    ],
}
_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra"]


class BuildError(Exception):
    """There is no compiler, or it failed; the message says which."""


def isas(machine: str | None = None) -> dict[str, list[str]]:
    """Compiler flags by set of instructions, the most common first."""
    machine = (machine or platform.machine()).lower()
    if machine in ("x86_64", "amd64"):
        return _X86
    return {"neon": []} if machine in ("arm64", "aarch64") else {"baseline": []}


def compiler() -> list[str]:
    """``$CXX``, else the first of c++, g++ and clang++ there is."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise BuildError("no C++ compiler found (c++, g++ or clang++; or name one in CXX)")


def library_path(isa: str, folder: Path = LIBRARIES) -> Path:
    return folder / f"archcost_kernels_{isa}.so"


def digest(sources: Path = SOURCES) -> str:
    """A digest of the sources, 16 hexadecimal digits: a library built from others is stale."""
    found = hashlib.sha256()
    for path in sorted([*sources.glob("*.cpp"), *sources.glob("*.h")]):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def note_failure(folder: Path, reason: str) -> None:
    """Leave the reason where `archcost.kernels.why_not` finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    Path(folder, FAILURE).write_text(reason, encoding="utf-8")


def build(folder: Path = LIBRARIES, jobs: int = 1) -> list[Path]:
    """Compile every library into a folder, whole or not at all."""
    if sys.platform == "win32":
        raise BuildError("the kernels are written for GCC and Clang, on Linux and macOS")
    command = compiler()
    sources = sorted(SOURCES.glob("*.cpp"))
    said = f'-DARCHCOST_SOURCES="{digest()}"'
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(jobs) as pool:
        objects: dict[str, list[Path]] = {isa: [] for isa in isas()}
        running = []
        for isa, flags in isas().items():
            for source in sources:
                objects[isa].append(Path(temporary, f"{isa}_{source.stem}.o"))
                parts = [*command, *_FLAGS, *flags, said, "-c", str(source), "-o", str(objects[isa][-1])]
                running.append(pool.submit(_run, parts))
        for one in running:
            one.result()
        linked = {isa: library_path(isa, Path(temporary)) for isa in objects}
        for isa, parts_of in objects.items():
            parts = [*command, "-shared", "-pthread", "-o", str(linked[isa]), *map(str, parts_of), "-ldl"]
            _run(parts)
        Path(folder, FAILURE).unlink(missing_ok=True)
        return [_put(path, library_path(isa, folder)) for isa, path in linked.items()]


def _put(made: Path, place: Path) -> Path:
    """In one step, since a program that has the old file loaded would not survive its being written to."""
    beside = Path(shutil.copy2(made, place.with_suffix(".new")))
    beside.replace(place)
    return place


def _run(parts: list[str]) -> None:
    try:
        done = subprocess.run(parts, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot run the compiler {parts[0]!r}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-20:]
        raise BuildError("\n".join([f"{shlex.join(parts)} failed ({done.returncode})", *said]))


if __name__ == "__main__":
    try:
        for path in build(jobs=os.cpu_count() or 1):
            print(path)
    except BuildError as error:
        sys.exit(f"archcost.kernels: {error}")
