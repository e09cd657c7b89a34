"""A device during a run: what it has to do, what it failed at, and whether its speed is its own."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from archcost.fleet.tasks import Probe, Task

__all__ = ["STRIKES", "State"]

STRIKES = 3
"""Failed attempts after which a task is reported as failed."""
# The median of five survives two outliers.
_FEWEST = 5
_CALM = 3
# Some seconds of probes: a burst of the clock is over by then.
_HOLD = 10
_WINDOW = 16


@dataclass
class State:
    """A device and its tasks."""

    name: str
    mark: str
    machine: str
    queue: deque[Task]
    drift: float = 0.2
    """The relative difference from its median at which the reference product is not as usual."""
    running: dict[Future[Any], Task] = field(default_factory=dict)
    strikes: Counter[str] = field(default_factory=Counter)
    logs: dict[str, str] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    """The keys of tasks that are to be measured anew, because the device had drifted."""
    references: list[float] = field(default_factory=list)
    unusual: deque[float] = field(default_factory=lambda: deque(maxlen=_HOLD))
    """The latest references, as long as none of them was as usual."""
    faster: bool = False
    """Whether it has just turned out to be faster; the run queues what was measured before, and resets it."""
    aside: bool = False
    calm: int = 0
    drifts: int = 0
    restless: float | None = None
    """When it was first set aside since it ended a task, by the monotonic clock."""

    def next(self, at_once: int = _WINDOW) -> Iterable[Task]:
        """The tasks to submit now: so many that the device does not wait; a probe where it is set aside."""
        while len(self.running) < (1 if self.aside else at_once) and (self.queue or self.aside):
            yield Probe() if self.aside else self.queue.popleft()

    def settled(self, reference: float) -> bool:
        """Whether the reference product took as long as it does on this device; sets it aside, and back.

        Ten in a row that are faster than usual, and as fast as each other, are its own speed: what slowed
        the earlier ones has ended.
        """
        usual = median(self.references) if len(self.references) >= _FEWEST else reference
        near = abs(reference / usual - 1) <= self.drift if usual else True
        if near:
            self.unusual.clear()
            self.references.append(reference)
            self.calm += 1
            self.aside = self.aside and self.calm < _CALM
        else:
            self.drifts += not self.aside
            self.aside, self.calm = True, 0
            self.restless = self.restless or time.monotonic()
            self.unusual.append(reference)
            fastest, slowest = min(self.unusual), max(self.unusual)
            if len(self.unusual) == _HOLD and slowest < usual and slowest <= (1 + self.drift) * fastest:
                self.references = list(self.unusual)
                self.aside, self.faster = False, True
        return near

    def slowed(self, reference: float) -> bool:
        """Whether the device was slower than it is now, when the reference product took so many seconds."""
        return reference > (1 + self.drift) * median(self.references)

    def given_up(self, seconds: float) -> bool:
        """Whether it is set aside, and has not settled for long enough to end a task in so many seconds."""
        return self.aside and self.restless is not None and time.monotonic() - self.restless > seconds

    def strike(self, task: Task, log: str) -> bool:
        """Count a failed attempt; True where it was the last, else the task is in the queue again."""
        self.strikes[task.key] += 1
        self.logs[task.key] = log
        if self.strikes[task.key] >= STRIKES:
            return True
        self.queue.append(task)
        return False

    @property
    def left(self) -> int:
        """Tasks in the queue and on the way, probes left out."""
        return len(self.queue) + sum(not isinstance(one, Probe) for one in self.running.values())
