"""Reading the clocks: all of them around a sample, and only cheap ones at the hooks of a forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from archcost.latency.timing.thresholds import GAP_NS

try:
    import resource
except ImportError:  # Windows has none: involuntary switches are unknown there
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import torch

__all__ = [
    *("CPU_CLOCKS", "Reading", "Sample", "System", "between", "read", "step_of", "system_now"),
    *("AnyStopwatch", "CpuStopwatch", "CudaStopwatch", "Lap", "Stopwatch", "WallStopwatch"),
]

CPU_CLOCKS = {"process": time.process_time_ns, "thread": time.thread_time_ns}


class Reading(NamedTuple):
    """All clocks at one moment in nanoseconds, and the involuntary context switches of all threads so far."""

    wall: int
    cpu: int
    switches: int | None


class Sample(NamedTuple):
    """The time between two readings, in seconds."""

    wall: float
    cpu: float
    switches: int | None
    """Involuntary context switches; None where the platform does not count them."""
    interrupted: bool
    """Whether another program had the processor meanwhile."""


class System(NamedTuple):
    """System time of this process in seconds, and its page faults without disk access."""

    seconds: float
    page_faults: int

    def since(self, before: System) -> System:
        """Between two moments."""
        return System(self.seconds - before.seconds, self.page_faults - before.page_faults)


def system_now() -> System | None:
    """System time and page faults so far; None where the platform does not count them."""
    usage = resource.getrusage(resource.RUSAGE_SELF) if resource is not None else None
    return usage and System(usage.ru_stime, usage.ru_minflt)


def read(cpu_clock: str) -> Reading:
    """All clocks now.

    RUSAGE_SELF counts every thread, ended ones too, in one call; the files of /proc/self/task take a read for
    each thread and forget a thread that ends.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF) if resource is not None else None
    return Reading(time.perf_counter_ns(), CPU_CLOCKS[cpu_clock](), usage and usage.ru_nivcsw)


def between(
    before: Reading, after: Reading, tolerance: float, step: float, switches_per_second: float
) -> Sample:
    """The sample between two readings.

    Args:
        before: the first reading.
        after: the second reading.
        tolerance: the share by which wall time may exceed CPU time.
        step: the resolution of the CPU clock in seconds.
        switches_per_second: involuntary context switches allowed for each second of CPU time.
    """
    wall, cpu = (after.wall - before.wall) / 1e9, (after.cpu - before.cpu) / 1e9
    switches = None
    if before.switches is not None and after.switches is not None:
        switches = after.switches - before.switches
    switched = switches is not None and switches > switches_per_second * cpu
    return Sample(wall, cpu, switches, switched or wall - cpu > tolerance * cpu + 2 * step)


def step_of(cpu_clock: str) -> float:
    """The resolution of a clock in seconds: under a microsecond on Linux, 15.6 ms on Windows."""
    clock = CPU_CLOCKS[cpu_clock]
    start = clock()
    while (now := clock()) == start:
        pass
    return (now - start) / 1e9


class Lap(NamedTuple):
    """The time between two readings of a stopwatch."""

    seconds: float
    interrupted: bool
    """Whether another program had the processor meanwhile."""


_R = TypeVar("_R")


class Stopwatch(Generic[_R]):
    """A clock for hooks: ``read`` at every hook, as cheap as can be; ``laps`` afterwards."""

    clock: Literal["cpu", "wall", "cuda"]
    read: Callable[[], _R]

    def laps(self, readings: list[_R], tolerance: float) -> list[Lap]:
        """The times between consecutive readings."""
        return [self.lap(before, after, tolerance) for before, after in pairwise(readings)]

    def lap(self, before: _R, after: _R, tolerance: float) -> Lap:
        """The time between two readings."""
        raise NotImplementedError


AnyStopwatch: TypeAlias = Stopwatch[Any]


class CpuStopwatch(Stopwatch[tuple[int, int]]):
    """CPU time of the calling thread, for a single thread: other programs do not lengthen it.

    A lap is interrupted where it took longer by the wall clock: another program had the processor.
    """

    clock = "cpu"

    def __init__(
        self,
        cpu: Callable[[], int] = time.thread_time_ns,
        wall: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.read = lambda: (cpu(), wall())

    def lap(self, before: tuple[int, int], after: tuple[int, int], tolerance: float) -> Lap:
        took, passed = after[0] - before[0], after[1] - before[1]
        return Lap(took / 1e9, passed - took > tolerance * took + GAP_NS)


class WallStopwatch(Stopwatch[tuple[int, int]]):
    """Wall time, for several threads; a lap is interrupted where any thread was switched out."""

    clock = "wall"

    def __init__(
        self,
        wall: Callable[[], int] = time.perf_counter_ns,
        switches: Callable[[], int] | None = None,
    ) -> None:
        count = switches or _switches
        self.read = lambda: (wall(), count())

    def lap(self, before: tuple[int, int], after: tuple[int, int], tolerance: float) -> Lap:
        return Lap((after[0] - before[0]) / 1e9, after[1] != before[1])


class CudaStopwatch(Stopwatch["torch.cuda.Event"]):
    """Time between events on the current stream of a CUDA device; nothing on the device is preempted."""

    clock = "cuda"

    def __init__(self, device: torch.device) -> None:
        import torch

        def read() -> torch.cuda.Event:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(device))
            return event

        self.device, self.read = device, read

    def laps(self, readings: list[torch.cuda.Event], tolerance: float) -> list[Lap]:
        import torch

        torch.cuda.synchronize(self.device)
        return super().laps(readings, tolerance)

    def lap(self, before: torch.cuda.Event, after: torch.cuda.Event, tolerance: float) -> Lap:
        return Lap(before.elapsed_time(after) / 1e3, False)


def _switches() -> int:
    """Involuntary context switches of all threads so far; always 0 where the system does not count them."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource is not None else 0
