"""The one engine of timing: what takes turns, until when, which samples count, and what they come to.

Two identical functions timed one after the other differ by up to 26 % on a shared machine; taken in turns
they agree within 1 %. So whatever is compared takes one sample a round, in a new order every round.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Generic, Literal, Protocol, TypeVar

from archcost.latency.timing.deadline import Deadline, now
from archcost.latency.timing.stopwatch import Lap
from archcost.latency.timing.thresholds import FEWEST, HALF_INTERVAL

__all__ = ["TimeStats", "Turns", "clock_for", "interquartile", "kept", "once", "time_stats"]


class _Sample(Protocol):
    @property
    def interrupted(self) -> bool: ...


_S = TypeVar("_S", bound=_Sample)


class Turns(Generic[_S]):
    """What is timed, by name, and its samples so far, each with the number of its round.

    Args:
        takes: what takes one sample of each.
        deadline: nothing is begun that is not likely to end by then, by what it took before.
        tries: how often a sample is taken in one round, as long as it is interrupted and there is time.
        before: called before each sample of a round.
        seed: of the orders.
    """

    def __init__(
        self,
        takes: Mapping[str, Callable[[], _S]],
        deadline: Deadline | None = None,
        *,
        tries: int = 1,
        before: Callable[[], Any] = lambda: None,
        seed: int = 0,
    ) -> None:
        self.takes, self.deadline, self.tries, self.before = takes, deadline, tries, before
        self.samples: dict[str, list[tuple[int, _S]]] = {name: [] for name in takes}
        self.costs = dict.fromkeys(takes, 0.0)
        """About how long another sample takes by the wall clock, whatever goes with it."""
        self.rounds = 0
        self._order, self._shuffle = list(takes), random.Random(seed).shuffle

    def run(self, enough: Callable[[], bool]) -> None:
        """Rounds until there is enough, or no time for the whole of another."""
        while not enough() and self._round():
            self.rounds += 1

    def _round(self) -> bool:
        """A sample of each, then again of those that were interrupted; False where not all had time."""
        self._shuffle(self._order)
        names = self._order
        for attempt in range(self.tries):
            again = []
            for name in names:
                self.before()
                # Five rounds come first: what is taken again must leave time for them.
                later = (FEWEST - 1 - self.rounds) * sum(self.costs.values()) if attempt else 0.0
                found = self.take(name, later)
                if found is None:
                    return attempt > 0
                self.samples[name].append((self.rounds, found))
                if found.interrupted:
                    again.append(name)
            names = again
        return True

    def take(self, name: str, later: float = 0.0) -> _S | None:
        """A sample that is not kept; None where it is not likely to end in time, with so many seconds left
        for what comes later."""
        if self.deadline is not None and not self.deadline.allows(self.costs[name] + max(0.0, later)):
            return None
        start = now()
        found = self.takes[name]()
        self.costs[name] = now() - start
        return found

    def lacking(self) -> list[str]:
        """Those with too few good samples in rounds in which the first of all has one."""
        good = {
            name: {number for number, one in found if not one.interrupted}
            for name, found in self.samples.items()
        }
        first = next(iter(good.values()))
        return [name for name, rounds in good.items() if len(first & rounds) < FEWEST]


def kept(samples: Sequence[_S], few: bool = False) -> tuple[list[_S], bool]:
    """Those that were not interrupted; unless that leaves fewer than five and less than half, or is said to
    be too ``few``: then all of them, and True, for they are not to be trusted."""
    quiet = [one for one in samples if not one.interrupted]
    few = few or (len(quiet) < FEWEST and 2 * len(quiet) < len(samples))
    return (list(samples), True) if few and len(quiet) < len(samples) else (quiet, False)


@dataclass(frozen=True)
class TimeStats:
    """A time that was measured several times."""

    median_s: float
    spread_s: float
    """The interquartile range; nan for a single sample."""
    samples: int
    """Those kept."""
    dropped: int
    """Those left out because they were interrupted."""
    disturbed: bool
    """Too few samples were not interrupted, so all were kept."""

    @property
    def precision(self) -> float:
        """Half the width of the 95 % interval of the median, relative to it (McGill, Tukey and Larsen)."""
        if self.samples < 2 or not self.median_s:
            return math.inf if self.samples < 2 else 0.0
        return HALF_INTERVAL * self.spread_s / math.sqrt(self.samples) / self.median_s


def time_stats(samples: Sequence[Lap]) -> TimeStats:
    """What they come to, by the rule of `kept`."""
    found, disturbed = kept(samples)
    seconds = [one.seconds for one in found]
    return TimeStats(
        median(seconds), interquartile(seconds), len(found), len(samples) - len(found), disturbed
    )


def interquartile(values: Sequence[float]) -> float:
    """The middle half of the values, from end to end; nan for fewer than two."""
    if len(values) < 2:
        return math.nan
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low


def clock_for(threads: int) -> Literal["cpu", "wall"]:
    """The clock that counts: CPU time, which other programs do not lengthen, where one thread does it all."""
    return "cpu" if threads == 1 else "wall"


def once(call: Callable[[], Any], threads: int | None = None) -> float:
    """Seconds of one call, by the clock that counts for so many threads; None: by that of deadlines."""
    clock = now if threads is None else time.thread_time if threads == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start
