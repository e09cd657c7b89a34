"""An analysis in a process of its own: one process cannot import two versions of one module."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archcost import errors
from archcost.analysis.analysis import Analysis, analyze
from archcost.errors import ArchcostError, SpecError, one_line
from archcost.report.saving import load_result

__all__ = ["Job", "Running", "serve"]

# Isolated, so that no file of the user's working directory stands in for a module of Python.
_CHILD = (
    "import pickle, sys; path, job = pickle.load(sys.stdin.buffer); sys.path[:] = path; "
    "from archcost.integrations.apart import serve; serve(pickle.loads(job))"
)


@dataclass(frozen=True)
class Job:
    """A model to be analysed in a process of its own."""

    spec: str
    options: dict[str, Any]
    """Keyword arguments of `archcost.analyze`."""
    folder: str
    """The working directory."""
    out: Path
    """A file for the Analysis, in a folder for what else is written."""
    paths: tuple[str, ...] = ()
    """Folders to import from before all others."""
    not_from: str | None = None
    """A folder of which no module may be imported: another version of the same code."""


class Running:
    """A process that works on a `Job`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._log = job.out.with_suffix(".log")
        orders = job.out.with_suffix(".job")
        orders.write_bytes(pickle.dumps((_path(job.not_from), pickle.dumps(job))))
        with orders.open("rb") as read, self._log.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _CHILD],
                cwd=job.folder,
                stdin=read,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def result(self) -> Analysis:
        """The Analysis, once it is there; raises what was raised in the process, or that it died."""
        code = self._process.wait()
        failed = self.job.out.with_suffix(".error")
        if failed.exists():
            kind, message, trace = pickle.loads(failed.read_bytes())
            raise getattr(errors, kind, ArchcostError)(message) from _InProcess(trace)
        if code or not self.job.out.exists():
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = said[-1:] or ["it said nothing"]
            raise SpecError(f"{self.job.spec}: the process ended with code {code}: {last[0]}")
        found: Analysis = load_result(self.job.out)
        return found

    def stop(self) -> None:
        """End the process, if it still runs."""
        self._process.kill()
        self._process.wait()


def _path(without: str | None) -> list[str]:
    """The path that this process imports from, without the folders of a repository but for packages."""
    path = [os.path.abspath(entry) for entry in sys.path]
    if without is None:
        return path
    own = str(Path(errors.__file__).parents[1])
    return [e for e in path if not _is_code_in(os.path.realpath(e), without) or os.path.realpath(e) == own]


def _is_code_in(path: str, top: str) -> bool:
    """Whether a path is in a folder, and not in that of an environment's packages."""
    return (path == top or path.startswith(f"{top}{os.sep}")) and "-packages" not in path


class _InProcess(Exception):
    """The traceback of another process, for ``--debug``."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def serve(job: Job) -> None:
    """Analyse a model and write the Analysis, or the error; the work of the process."""
    sys.dont_write_bytecode = True  # nothing is left in the working tree
    sys.path[:0] = job.paths
    try:
        analysis = analyze(job.spec, progress=False, **job.options)
        if job.not_from is not None:
            _check_origins(job)
        analysis.save(job.out)
    except ArchcostError as error:
        _fail(job, type(error).__name__, str(error))
    except Exception as error:
        _fail(job, "ArchcostError", f"{job.spec}: {one_line(error)}")


def _fail(job: Job, kind: str, message: str) -> None:
    job.out.with_suffix(".error").write_bytes(pickle.dumps((kind, message, traceback.format_exc())))


def _check_origins(job: Job) -> None:
    """Raises SpecError where a module was imported from the working tree instead of the revision."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if _is_code_in(file, str(job.not_from)) and name.partition(".")[0] != "archcost":
            raise SpecError(
                f"{name} was imported from {file}, which is not that revision: run from the folder that "
                f"holds it, or uninstall its editable install"
            )
