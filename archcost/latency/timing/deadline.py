"""Deadline: the moment by which a measurement is to have ended. Every loop that takes time looks at it."""

from __future__ import annotations

import time

from archcost.errors import ArchcostError
from archcost.latency.timing.thresholds import FEWEST

__all__ = ["FEWEST", "Deadline", "TooLittleTime", "clock", "now"]

clock = time.perf_counter
"""Seconds of the wall clock that all deadlines go by; tests put one in its place that they move."""


def now() -> float:
    """Seconds of the clock."""
    return clock()


class TooLittleTime(ArchcostError):
    """The time was up before there were enough samples: more seconds, or a quieter machine, would do."""


class Deadline:
    """So many seconds from now on.

    What cannot be interrupted is begun only where it is likely to end in time (`allows`), so that the time
    is kept, whatever the first call of something takes.
    """

    def __init__(self, seconds: float) -> None:
        self.end = now() + seconds

    @property
    def left(self) -> float:
        """Seconds; below 0 when the time is up."""
        return self.end - now()

    @property
    def passed(self) -> bool:
        return self.left <= 0

    def allows(self, seconds: float) -> bool:
        """Whether what takes so long would end in time; nothing does once the time is up."""
        left = self.left
        return left > 0 and left >= seconds

    def within(self, seconds: float) -> Deadline:
        """A deadline ``seconds`` from now, or at this one where that comes first."""
        return Deadline(min(seconds, self.left))

    def before(self, seconds: float) -> Deadline:
        """A deadline ``seconds`` earlier than this one, which leaves them for what follows."""
        return Deadline(self.left - seconds)
