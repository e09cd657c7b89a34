"""What a stopwatch reads at the hooks of a forward pass: on the CPU at once, on CUDA after the pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NamedTuple

try:
    import resource
except ImportError:  # Windows has none: involuntary switches are unknown there
    resource = None  # type: ignore[assignment]

__all__ = ["CpuStopwatch", "CudaStopwatch", "Lap", "Stopwatch", "WallStopwatch"]

# A gap between wall and CPU time below this is the clocks' own reading; a processor taken away is more.
_GAP_NS = 20_000


class Lap(NamedTuple):
    """The time between two readings."""

    seconds: float
    interrupted: bool


class Stopwatch:
    """``read`` at every hook, as cheap as can be; ``laps`` afterwards."""

    clock: Literal["cpu", "wall", "cuda"]
    read: Callable[[], Any]

    def laps(self, readings: list[Any], tolerance: float) -> list[Lap]:
        """The times between the readings, one fewer than they are."""
        raise NotImplementedError


class CpuStopwatch(Stopwatch):
    """CPU time of the calling thread, for one thread: other programs do not lengthen it.

    Interrupted is what took longer by the wall clock: the system gave the processor to somebody else.
    """

    clock = "cpu"

    def __init__(
        self,
        cpu: Callable[[], int] = time.thread_time_ns,
        wall: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.read = lambda: (cpu(), wall())

    def laps(self, readings: list[Any], tolerance: float) -> list[Lap]:
        found = []
        for (cpu, wall), (next_cpu, next_wall) in pairwise(readings):
            took, passed = next_cpu - cpu, next_wall - wall
            found.append(Lap(took / 1e9, passed - took > tolerance * took + _GAP_NS))
        return found


class WallStopwatch(Stopwatch):
    """Wall time, for several threads; interrupted is what any thread of the process was switched off in."""

    clock = "wall"

    def __init__(
        self,
        wall: Callable[[], int] = time.perf_counter_ns,
        switches: Callable[[], int] | None = None,
    ) -> None:
        count = switches or _switches
        self.read = lambda: (wall(), count())

    def laps(self, readings: list[Any], tolerance: float) -> list[Lap]:
        pairs = pairwise(readings)
        return [Lap((after[0] - before[0]) / 1e9, after[1] != before[1]) for before, after in pairs]


class CudaStopwatch(Stopwatch):
    """Time between events on the current stream of a CUDA device; nothing on the device is preempted."""

    clock = "cuda"

    def __init__(self, device: Any) -> None:
        import torch

        def read() -> Any:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(device))
            return event

        self.device = device
        self.read = read

    def laps(self, readings: list[Any], tolerance: float) -> list[Lap]:
        import torch

        torch.cuda.synchronize(self.device)
        pairs = pairwise(readings)
        return [Lap(before.elapsed_time(after) / 1e3, False) for before, after in pairs]


def _switches() -> int:
    """Involuntary context switches of all threads so far; 0 for ever where the system does not count them."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource is not None else 0
