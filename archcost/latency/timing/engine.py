"""The engine of all timing: taking turns, deadlines, which samples count, and their statistics.

Two identical functions timed one after the other differ by up to 26 % on a shared machine; in turns they
agree within 1 %. So all that is compared takes a sample in each round, in a new order every round.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

from archcost.latency.timing.deadline import Deadline, now
from archcost.latency.timing.stopwatch import Lap
from archcost.latency.timing.thresholds import FEWEST, HALF_INTERVAL

__all__ = ["TimeStats", "Turns", "Work", "clock_for", "interquartile", "kept", "once", "time_stats"]


Work: TypeAlias = Callable[..., object]
"""A function to be timed, or run before one that is; it may return anything."""


class _Interruptible(Protocol):
    @property
    def interrupted(self) -> bool: ...


_S = TypeVar("_S", bound=_Interruptible)


class Turns(Generic[_S]):
    """Named candidates and their samples so far, each sample with the number of its round.

    Args:
        takes: the function that takes a sample, by candidate.
        deadline: nothing is begun that is not likely to end by then, judged by the last time it ran.
        tries: most attempts at a sample in a round, while it is interrupted and there is time.
        before: called before each sample of a round.
        seed: the seed of the orders.
    """

    def __init__(
        self,
        takes: Mapping[str, Callable[[], _S]],
        deadline: Deadline | None = None,
        *,
        tries: int = 1,
        before: Work = lambda: None,
        seed: int = 0,
    ) -> None:
        self.takes, self.deadline, self.tries, self.before = takes, deadline, tries, before
        self.samples: dict[str, list[tuple[int, _S]]] = {name: [] for name in takes}
        self.costs = dict.fromkeys(takes, 0.0)
        """Wall time of the last sample in seconds, by candidate."""
        self.rounds = 0
        self._order, self._shuffle = list(takes), random.Random(seed).shuffle

    def run(self, enough: Callable[[], bool]) -> None:
        """Take rounds until ``enough()`` is true, or there is no time for another whole round."""
        while not enough() and self._round():
            self.rounds += 1

    def _round(self) -> bool:
        """Take a sample of each, again where it was interrupted; False where time was too short for all."""
        self._shuffle(self._order)
        names = self._order
        for attempt in range(self.tries):
            again = []
            for name in names:
                self.before()
                # Five rounds come first: repeated samples must leave time for them.
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
        """Take a sample, not kept; None where it is not likely to end with ``later`` seconds left."""
        if self.deadline is not None and not self.deadline.allows(self.costs[name] + max(0.0, later)):
            return None
        start = now()
        found = self.takes[name]()
        self.costs[name] = now() - start
        return found

    def lacking(self) -> list[str]:
        """The candidates with too few good samples in rounds where the first candidate has one as well."""
        good = {
            name: {number for number, one in found if not one.interrupted}
            for name, found in self.samples.items()
        }
        first = next(iter(good.values()))
        return [name for name, rounds in good.items() if len(first & rounds) < FEWEST]


def kept(samples: Sequence[_S], few: bool = False) -> tuple[list[_S], bool]:
    """The samples that were not interrupted, and False.

    Where they are fewer than five and less than half, or ``few`` says that they are too few: all samples, and
    True, because they are unreliable.
    """
    quiet = [one for one in samples if not one.interrupted]
    few = few or (len(quiet) < FEWEST and 2 * len(quiet) < len(samples))
    return (list(samples), True) if few and len(quiet) < len(samples) else (quiet, False)


@dataclass(frozen=True)
class TimeStats:
    """Statistics of a time that was measured several times."""

    median_s: float
    """The median in seconds."""
    spread_s: float
    """The interquartile range in seconds; nan for a single sample."""
    samples: int
    """The number of samples kept."""
    dropped: int
    """The number of samples left out because they were interrupted."""
    disturbed: bool
    """Whether too few samples were free of interruptions, so that all were kept."""

    @property
    def precision(self) -> float:
        """Half the width of the 95 % interval of the median, relative to it (McGill, Tukey and Larsen)."""
        if self.samples < 2 or not self.median_s:
            return math.inf if self.samples < 2 else 0.0
        return HALF_INTERVAL * self.spread_s / math.sqrt(self.samples) / self.median_s


def time_stats(samples: Sequence[Lap]) -> TimeStats:
    """Statistics of the samples that count by the rule of `kept`."""
    found, disturbed = kept(samples)
    seconds = [one.seconds for one in found]
    return TimeStats(
        median(seconds), interquartile(seconds), len(found), len(samples) - len(found), disturbed
    )


def interquartile(values: Sequence[float]) -> float:
    """The interquartile range of the values; nan for fewer than two."""
    if len(values) < 2:
        return math.nan
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low


def clock_for(threads: int) -> Literal["cpu", "wall"]:
    """CPU time, which other programs do not lengthen, for a single thread; wall time for more."""
    return "cpu" if threads == 1 else "wall"


def once(call: Work, threads: int | None = None) -> float:
    """Seconds of a single call, by the clock for this number of threads; None: by that of deadlines."""
    clock = now if threads is None else time.thread_time if threads == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start
