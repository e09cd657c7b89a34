"""compare_calls: functions timed in turns in one run, interrupted samples left out.

Each sample records wall time, CPU time and the involuntary context switches.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Literal, TypeGuard

from archcost.errors import ArchcostError, SpecError
from archcost.latency.timing import stopwatch
from archcost.latency.timing import thresholds as limits
from archcost.latency.timing.deadline import Deadline
from archcost.latency.timing.engine import TimeStats, Turns, Work, interquartile, kept
from archcost.latency.timing.stopwatch import CPU_CLOCKS, Sample, between, step_of

__all__ = ["Ratio", "Timing", "compare_calls", "interquartile", "ratio"]


@dataclass(frozen=True)
class Timing:
    """The times of a candidate in seconds per call, with an entry for each sample kept, in order."""

    name: str
    cpu_seconds: tuple[float, ...]
    """CPU time of the process or of the calling thread, as asked."""
    wall_seconds: tuple[float, ...]
    rounds: tuple[int, ...]
    """The round of each sample kept: samples of two candidates are compared within a round."""
    calls: int
    """The number of calls in a sample."""
    dropped: int
    """The number of samples left out because they were interrupted."""
    disturbed: bool
    """Whether too few samples were free of interruptions, so that all were kept: the times are unreliable."""
    switches: int | None
    """Involuntary context switches during the samples kept; None where the platform does not count them."""

    @property
    def kept(self) -> int:
        """The number of samples kept."""
        return len(self.cpu_seconds)

    @property
    def median(self) -> float:
        """The median CPU time."""
        return median(self.cpu_seconds)

    @property
    def spread(self) -> float:
        """The interquartile range of the CPU time; nan for a single sample."""
        return interquartile(self.cpu_seconds)

    @property
    def wall_median(self) -> float:
        """The median wall time."""
        return median(self.wall_seconds)

    def by(self, clock: Literal["cpu", "wall"]) -> TimeStats:
        """Median and spread by one of the two clocks."""
        seconds = self.cpu_seconds if clock == "cpu" else self.wall_seconds
        return TimeStats(median(seconds), interquartile(seconds), self.kept, self.dropped, self.disturbed)

    def __str__(self) -> str:
        known = "" if self.switches is not None else ", context switches unknown on this platform"
        warning = f"; {limits.UNRELIABLE}" if self.disturbed else ""
        return (
            f"{self.name}: {self.median:.3g} s CPU, spread {self.spread:.2g} s "
            f"({self.kept} kept, {self.dropped} dropped{known}{warning})"
        )


@dataclass(frozen=True)
class Ratio:
    """How many times as long a candidate takes as another, from the quotients within each round."""

    median: float
    """The median of the quotients over the rounds."""
    spread: float
    """The interquartile range; nan for fewer than two pairs."""
    pairs: int
    """Rounds in which both samples were kept; with 0, ``median`` is the quotient of the two medians."""


def compare_calls(
    calls: Mapping[str, Work],
    *,
    rounds: int = 9,
    seconds: float | None = None,
    deadline: Deadline | None = None,
    warmup: int = 1,
    block: float = limits.BLOCK_S,
    cpu_clock: Literal["process", "thread"] = "process",
    prepare: Mapping[str, Work] | None = None,
    tolerance: float = limits.TOLERANCE,
    switches_per_second: float = 0.0,
    gc_enabled: bool = False,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time candidates against each other: a sample of each in every round, in a new order every round.

    A sample is interrupted when there were more than ``switches_per_second`` involuntary context switches
    for each second of its CPU time (by default: any at all), or when its wall time exceeds its CPU time
    by more than ``tolerance``. Interrupted samples are dropped and counted, unless that leaves fewer than
    five and less than half of them: then all of the candidate's samples are kept, and it is
    `Timing.disturbed`.

    Args:
        calls: the candidates, functions without arguments, by name.
        rounds: the number of samples of each candidate.
        seconds: begin no further round after this much wall time, once three rounds are done.
        deadline: begin nothing that is not likely to end by then; a candidate without a sample by then is
            left out of the results. With five rounds or more, interrupted samples are taken again in the
            same round, and rounds go on until each candidate has five good samples in rounds in which the
            first candidate has one as well; a candidate that has not is disturbed.
        warmup: untimed calls of each candidate before the first round.
        block: a function that takes less than this many seconds is called several times in a sample.
        cpu_clock: CPU time of the whole ``"process"``, or of the calling ``"thread"`` alone.
        prepare: functions by name that make, untimed, the argument for each call of a candidate that
            changes its argument; such a candidate is called once a sample.
        tolerance: the share by which wall time may exceed CPU time.
        switches_per_second: involuntary context switches allowed for each second of CPU time.
        gc_enabled: by default the garbage collector is off during a sample, as in `timeit`, and what a
            sample leaves is collected after it. With True it stays on, as it is for a user, and
            everything is collected before each sample: no candidate pays for another's garbage.
        seed: the seed of the orders.

    Returns:
        The times of each candidate by its name.

    Raises:
        SpecError: an argument makes no sense.
        ArchcostError: a candidate raised; the message names it, and the exception is its ``__cause__``.
    """
    prepare = dict(prepare or {})
    rates = {"tolerance": tolerance, "switches_per_second": switches_per_second}
    _check(calls, prepare, cpu_clock, rounds=rounds, warmup=warmup, seconds=seconds, block=block, **rates)
    step = step_of(cpu_clock)
    counts = dict.fromkeys(calls, 1)

    def taken(name: str) -> Sample:
        call, ready = calls[name], prepare.get(name)
        try:
            work = call if ready is None else partial(call, ready())
            repeats = range(counts[name])
            before = stopwatch.read(cpu_clock)
            for _ in repeats:
                work()
            after = stopwatch.read(cpu_clock)
        except Exception as error:
            raise ArchcostError(f"candidate {name!r} raised {type(error).__name__}: {error}") from error
        return between(before, after, tolerance, step, switches_per_second)

    patient = deadline is not None and rounds >= limits.FEWEST
    with _collector(gc_enabled) as tidy:
        takes = {name: partial(taken, name) for name in calls}
        turns = Turns(takes, deadline, tries=limits.TRIES if patient else 1, before=tidy, seed=seed)
        for name in calls:
            for _ in range(warmup):
                turns.take(name)
            # Double the calls in a sample until it lasts for a block.
            while name not in prepare and counts[name] < limits.MOST_CALLS:
                found = turns.take(name)
                if found is None or found.wall >= max(block, limits.LEAST_STEPS * step):
                    break
                counts[name] *= 2
        until = None if seconds is None else Deadline(seconds)

        def enough() -> bool:
            if turns.rounds >= rounds and not (patient and turns.lacking()):
                return True
            return until is not None and turns.rounds >= limits.LEAST_ROUNDS and until.passed

        turns.run(enough)
    few = turns.lacking() if patient else ()
    return {
        name: _timing(name, samples, counts[name], name in few)
        for name, samples in turns.samples.items()
        if samples
    }


def ratio(a: Timing, b: Timing, *, wall: bool = False) -> Ratio:
    """How many times as long ``a`` takes as ``b``, in CPU time or, with ``wall``, in wall time."""
    of_a, of_b = (dict(zip(t.rounds, t.wall_seconds if wall else t.cpu_seconds, strict=True)) for t in (a, b))
    pairs = [_quotient(of_a[number], of_b[number]) for number in of_a if number in of_b]
    if not pairs:
        return Ratio(_quotient(median(of_a.values()), median(of_b.values())), math.nan, 0)
    return Ratio(median(pairs), interquartile(pairs), len(pairs))


def _quotient(a: float, b: float) -> float:
    return a / b if b else math.inf if a else math.nan


@contextmanager
def _collector(enabled: bool) -> Iterator[Work]:
    """Set the garbage collector; gives the function to call before a sample.

    Objects made while the collector is off are all in the youngest generations.
    """
    switch = {True: gc.enable, False: gc.disable}
    before = gc.isenabled()
    gc.collect()
    switch[enabled]()
    try:
        yield gc.collect if enabled else lambda: gc.collect(1)
    finally:
        switch[before]()


def _timing(name: str, samples: list[tuple[int, Sample]], calls: int, few: bool) -> Timing:
    found, disturbed = kept([one for _, one in samples], few)
    switches = [one.switches for one in found if one.switches is not None]
    return Timing(
        name=name,
        cpu_seconds=tuple(one.cpu / calls for one in found),
        wall_seconds=tuple(one.wall / calls for one in found),
        rounds=tuple(number for number, one in samples if disturbed or not one.interrupted),
        calls=calls,
        dropped=len(samples) - len(found),
        disturbed=disturbed,
        switches=sum(switches) if len(switches) == len(found) else None,
    )


def _check(
    calls: Mapping[str, Work],
    prepare: Mapping[str, Work],
    cpu_clock: str,
    **numbers: float | None,
) -> None:
    if not isinstance(calls, Mapping) or not calls:
        raise SpecError(f"calls must be a dict of names to functions, with at least one; got {calls!r}")
    for name, call in [*calls.items(), *prepare.items()]:
        if not callable(call):
            raise SpecError(f"candidate {name!r} must be a function without arguments; got {call!r}")
        if name not in calls:
            raise SpecError(
                f"prepare names {name!r}, which is no candidate; the candidates are {', '.join(calls)}"
            )
    for what, number in numbers.items():
        whole = isinstance(number, int) and not isinstance(number, bool) and number >= _WHOLE.get(what, 0)
        if what in _WHOLE and not whole:
            raise SpecError(f"{what} must be a whole number, at least {_WHOLE[what]}; got {number!r}")
        if what in ("seconds", "block") and number is not None and not (_is_number(number) and number > 0):
            raise SpecError(f"{what} must be a number of seconds above 0; got {number!r}")
        if what in ("tolerance", "switches_per_second") and not (_is_number(number) and number >= 0):
            raise SpecError(f"{what} must be a number, at least 0; got {number!r}")
    if cpu_clock not in CPU_CLOCKS:
        raise SpecError(f"cpu_clock must be 'process' or 'thread'; got {cpu_clock!r}")


_WHOLE = {"rounds": 1, "warmup": 0}


def _is_number(value: float | None) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
