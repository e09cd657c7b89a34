"""The conditions of a measurement: threads, cores, denormal numbers, and memory kept by the process."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress

from archcost.errors import InputError

__all__ = ["denormals_flushed", "keep_blocks", "settings"]

# glibc's mallopt: blocks by mmap at most, trim above, ask for this much at a time (M_MMAP_MAX and so on).
_MALLOPT = ((-4, 0), (-1, 2**31 - 1), (-2, 2**28))


@contextmanager
def settings(
    *,
    threads: int | None = None,
    cores: Collection[int] | None = None,
    flush_denormals: bool = True,
    keep_blocks: bool = False,
) -> Iterator[None]:
    """Measure inside; on leaving, all is as it was, also after an exception.

    Args:
        threads: threads of PyTorch inside an operation; None leaves them.
        cores: the processor cores that every thread of this process may run on; None leaves them.
        flush_denormals: denormal numbers become 0, so that no layer is slow for its values.
        keep_blocks: see `keep_blocks`; it stays, because the C library cannot undo it.

    Raises:
        InputError: a number of threads below 1, or cores that this process may not use.
    """
    import torch

    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise InputError(f"threads must be a whole number, at least 1; got {threads!r}")
    with ExitStack() as after:
        # Pinned first: threads that PyTorch starts from now on inherit the cores.
        if cores is not None:
            _pin(frozenset(cores), after)
        if threads is not None:
            after.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        if flush_denormals:
            before = denormals_flushed()
            if torch.set_flush_denormal(True):
                after.callback(torch.set_flush_denormal, before)
        if keep_blocks:
            _keep_blocks()
        yield


def keep_blocks() -> bool:
    """Have this process keep large freed blocks of memory.

    Otherwise they go back to the system with every call, and page faults are timed as computation. It cannot
    be undone: the process keeps its largest size from here on. Turn it on for both sides of a comparison.

    Returns:
        Whether it could be done: with glibc it can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(option, value) == 1 for option, value in _MALLOPT])


_keep_blocks = keep_blocks


def denormals_flushed() -> bool:
    """Whether this thread computes 0 in place of denormal numbers."""
    smallest, two = sys.float_info.min, float(sys.float_info.radix)
    return smallest / two == 0.0


def _pin(cores: frozenset[int], after: ExitStack) -> None:
    """Pin every thread to these cores until ``after`` closes."""
    if not hasattr(os, "sched_setaffinity"):
        raise InputError(f"cores: {platform.system()} cannot pin a process to cores; leave cores out")
    allowed = os.sched_getaffinity(0)
    if not cores or not cores <= allowed:
        raise InputError(
            f"cores: this process may run on {_listed(allowed)}; got {_listed(cores)}. Give some of those"
        )
    before = {thread: _affinity(thread) for thread in _threads()}

    def restore() -> None:
        # Threads started meanwhile inherited the pin, and get what this thread had.
        for thread in _threads():
            _move(thread, before.get(thread) or allowed)

    after.callback(restore)
    for thread in before:
        _move(thread, cores)


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return [0]


def _affinity(thread: int) -> set[int] | None:
    try:
        return os.sched_getaffinity(thread)
    except ProcessLookupError:  # it has ended meanwhile
        return None


def _move(thread: int, cores: Collection[int]) -> None:
    with suppress(ProcessLookupError):
        os.sched_setaffinity(thread, cores)


def _listed(cores: Collection[int]) -> str:
    return f"cores {', '.join(map(str, sorted(cores)))}" if cores else "no core"
