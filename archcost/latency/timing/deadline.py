"""Deadline: the moment by which a measurement has to end; every loop that takes time checks it."""

from __future__ import annotations

import time

from archcost.errors import ArchcostError
from archcost.latency.timing.thresholds import FEWEST

__all__ = ["FEWEST", "Deadline", "TooLittleTime", "clock", "now"]

clock = time.perf_counter
"""The wall clock of all deadlines, in seconds; tests put in a clock of their own."""


def now() -> float:
    """Seconds of `clock`."""
    return clock()


class TooLittleTime(ArchcostError):
    """The time was up before there were enough samples: give more seconds, or a quieter machine."""


class Deadline:
    """The moment a number of seconds after its making.

    Work that cannot be interrupted is begun only where it is likely to end in time (see `allows`).
    """

    def __init__(self, seconds: float) -> None:
        self.end = now() + seconds

    @property
    def left(self) -> float:
        """Seconds left; below 0 when the time is up."""
        return self.end - now()

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return self.left <= 0

    def allows(self, seconds: float) -> bool:
        """Whether work of this many seconds would end in time; never once the time is up."""
        left = self.left
        return left > 0 and left >= seconds

    def within(self, seconds: float) -> Deadline:
        """A deadline ``seconds`` from now, or at this one where that comes first."""
        return Deadline(min(seconds, self.left))

    def before(self, seconds: float) -> Deadline:
        """A deadline ``seconds`` earlier than this one, which leaves them for what follows."""
        return Deadline(self.left - seconds)
