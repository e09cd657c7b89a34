"""A process that measures each task in a fork of its own, so that a crash costs that measurement alone.

`serve` imports once what measures, writes ``ready``, and then reads lines of JSON, ``{"task", "limit",
"seconds"}``, from stdin: for each it forks, the fork calls the function, and a line ``{"result"}`` or
``{"failed", "log"}`` goes to stdout. The fork is killed at its limit in seconds, and with its parent. Only
JSON passes the pipes.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from archcost.fleet.errors import FleetError

__all__ = ["CORES", "MEASURE", "Child", "serve"]

MEASURE = "archcost.fleet.measuring:measured"
"""The function that measures a task."""
CORES = "ARCHCOST_FLEET_CORES"
"""Variable of a worker's environment: the processor cores that it measures on, as in ``0,1``."""
# Isolated, so that the working directory is on the path only where the parent had it there.
_CHILD = "import sys; sys.path[:] = sys.argv[2:]; from archcost.fleet.child import serve; serve(sys.argv[1])"
_LOG = 2000  # characters of a failed task's output that are kept
_PDEATHSIG = 1
# Of glibc's mallopt: M_MMAP_THRESHOLD, at the most that glibc itself raises it to (larger weights are in
# pages of their own, which may be huge), M_TRIM_THRESHOLD and M_TOP_PAD.
_KEEPING = ((-3, 32 << 20), (-1, 2**31 - 1), (-2, 1 << 26))
_TRIMMING = "MALLOC_TRIM_THRESHOLD_"


@dataclass
class Child:
    """The process, begun at the first task and again where it has died.

    Args:
        run: the function that measures a task, as ``MODULE:FUNCTION``.
        patience: seconds beyond a task's limit until the process itself is taken to hang.
        beginning: seconds that its imports may take, which no task pays for.
    """

    run: str = MEASURE
    patience: float = 60.0
    beginning: float = 600.0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def measure(self, task: dict[str, Any], limit: float, seconds: float) -> dict[str, Any]:
        """The result of a task, or ``{"failed": reason, "log": its output}``."""
        process = self._started()
        if process is None:
            return {"failed": "the measuring process did not start", "log": ""}
        line = json.dumps({"task": task, "limit": limit, "seconds": seconds}) + "\n"
        try:
            assert process.stdin is not None
            process.stdin.write(line.encode())
            process.stdin.flush()
            answer = _line(process, limit + self.patience)
        except OSError:
            answer = None
        if answer is None:
            self.close()
            return {"failed": "the measuring process itself was killed, or hung", "log": ""}
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End the process, and the measurement that it is at."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _started(self) -> subprocess.Popen[bytes] | None:
        if self._process is None or self._process.poll() is not None:
            if not hasattr(os, "fork"):
                raise FleetError(
                    "fleet: workers measure in forked processes, which this system does not have"
                )
            self.close()
            command = [sys.executable, "-I", "-c", _CHILD, self.run, *map(os.path.abspath, sys.path)]
            # dask sets it for its workers: with it glibc maps every large tensor anew, and each page faults.
            environment = {name: value for name, value in os.environ.items() if name != _TRIMMING}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            if _line(self._process, self.beginning) is None:
                self.close()
        return self._process


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The next line of its stdout; None where it has died, or the time is up."""
    assert process.stdout is not None
    until, found = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while not found.endswith(b"\n"):
            if not ready.select(max(0.0, until - time.monotonic())):
                return None
            some = os.read(process.stdout.fileno(), 1 << 16)
            if not some:
                return None
            found += some
    return found


def serve(run: str) -> None:
    """Fork for each line of stdin, until it ends."""
    _die_with_parent()
    if cores := os.environ.get(CORES):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    _keep_memory()
    module, _, name = run.partition(":")
    function = getattr(importlib.import_module(module), name)
    # Every fork would else walk all that was imported, and copy its pages, at each collection.
    gc.collect()
    gc.freeze()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed is no reply
    replies.write("ready\n")
    replies.flush()
    while line := _from_stdin():
        asked = json.loads(line)
        replies.write(json.dumps(_forked(function, asked)) + "\n")
        replies.flush()


def _from_stdin() -> bytes:
    """A line, read without a buffer: `_waited` looks whether stdin has ended."""
    found = b""
    while not found.endswith(b"\n"):
        some = os.read(0, 1 << 16)
        if not some:
            return b""
        found += some
    return found


def _forked(function: Callable[..., Any], asked: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as log:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _in_fork(function, asked, write, log)
        os.close(write)
        text, late = _waited(read, pid, asked["limit"])
        os.close(read)
        _, status = os.waitpid(pid, 0)
        if not late and status == 0:
            result: dict[str, Any] = json.loads(text)
            return result
        log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG))
        said = log.read().decode(errors="replace")
    if late:
        why = f"stopped at its limit of {asked['limit']:.0f} s"
    elif os.WIFSIGNALED(status):
        why = f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        why += ", as a system out of memory does" if os.WTERMSIG(status) == signal.SIGKILL else ""
    else:
        why = f"ended with exit code {os.WEXITSTATUS(status)}"
    return {"failed": why, "log": said}


def _in_fork(function: Callable[..., Any], asked: dict[str, Any], write: int, log: IO[bytes]) -> None:
    """Call the function, write its result to the pipe, and end without the parent's clean-up."""
    code = 1
    try:
        os.setsid()
        _die_with_parent()
        _first_to_be_killed()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            answer = {"result": function(asked["task"], asked["seconds"])}
        except Exception as error:
            import traceback

            answer = {"failed": f"{type(error).__name__}: {error}", "log": traceback.format_exc()[-_LOG:]}
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps(answer))
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _waited(read: int, pid: int, limit: float) -> tuple[str, bool]:
    """The bytes that the fork wrote, and whether it was killed: at its limit, or because stdin ended."""
    until, found = time.monotonic() + limit, b""
    with selectors.DefaultSelector() as ready:
        ready.register(read, selectors.EVENT_READ)
        ready.register(0, selectors.EVENT_READ)
        while True:
            events = ready.select(max(0.0, until - time.monotonic()))
            files = [key.fd for key, _ in events]
            if read in files:
                some = os.read(read, 1 << 16)
                if not some:
                    return found.decode(), False
                found += some
            elif not files or not os.read(0, 1):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                if files:
                    os._exit(1)
                return "", True


def _first_to_be_killed() -> None:
    """Have a Linux that is out of memory kill this process before the worker."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")


def _keep_memory() -> None:
    """Have glibc keep what is freed, as a process does that has run for a while.

    In a new one a third of a pass may be page faults, and more or fewer from one model to the next.
    """
    if platform.libc_ver()[0] == "glibc":
        for option, value in _KEEPING:
            ctypes.CDLL(None).mallopt(option, value)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
