"""The clock: several functions timed against each other in one run, interrupted samples left out.

Two identical functions timed one after the other differ by up to 26 % on a shared machine; taken in turns
they agree within 1 %. So the candidates take turns, in a new order every round, and each sample records
wall time, CPU time and how often the system took the processor away.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Literal, NamedTuple

from archcost.errors import ArchcostError, SpecError
from archcost.latency.timing.deadline import FEWEST, Deadline

try:
    import resource
except ImportError:  # Windows has none: involuntary switches are unknown there
    resource = None  # type: ignore[assignment]

__all__ = ["Ratio", "Timing", "compare_calls", "interquartile", "ratio"]

_CPU_CLOCKS = {"process": time.process_time_ns, "thread": time.thread_time_ns}
_LEAST_ROUNDS = 3
# How often a sample is taken in one round, as long as it is interrupted and there is time.
_TRIES = 3
_MOST_CALLS = 1 << 20

_Run = Callable[..., tuple["_Reading", "_Reading"]]


@dataclass(frozen=True)
class Timing:
    """What one candidate took, in seconds per call; one entry for each sample kept, in order."""

    name: str
    cpu_seconds: tuple[float, ...]
    wall_seconds: tuple[float, ...]
    rounds: tuple[int, ...]
    """The round of each sample kept: samples of two candidates are compared within one round."""
    calls: int
    """Calls in one sample."""
    dropped: int
    """Samples left out because they were interrupted."""
    disturbed: bool
    """Too few samples were not interrupted, so all were kept: these numbers are not to be trusted."""
    switches: int | None
    """Involuntary context switches during the samples kept; None where the platform does not count them."""

    @property
    def kept(self) -> int:
        return len(self.cpu_seconds)

    @property
    def median(self) -> float:
        """Of the CPU time."""
        return median(self.cpu_seconds)

    @property
    def spread(self) -> float:
        """The interquartile range of the CPU time; nan for a single sample."""
        return interquartile(self.cpu_seconds)

    @property
    def wall_median(self) -> float:
        return median(self.wall_seconds)

    def __str__(self) -> str:
        known = "" if self.switches is not None else ", involuntary switches unknown on this platform"
        warning = ", DISTURBED" if self.disturbed else ""
        return (
            f"{self.name}: {self.median:.3g} s CPU, spread {self.spread:.2g} s "
            f"({self.kept} kept, {self.dropped} dropped{known}{warning})"
        )


@dataclass(frozen=True)
class Ratio:
    """How many times as long one candidate takes as another: within each round, then over the rounds."""

    median: float
    spread: float
    """The interquartile range; nan for fewer than two pairs."""
    pairs: int
    """Rounds in which both samples were kept; with 0, ``median`` is the quotient of the two medians."""


class _Reading(NamedTuple):
    wall: int
    cpu: int
    switches: int | None


class _Sample(NamedTuple):
    round: int
    wall: float
    cpu: float
    switches: int | None
    interrupted: bool = False


def compare_calls(
    calls: Mapping[str, Callable[..., Any]],
    *,
    rounds: int = 9,
    seconds: float | None = None,
    deadline: Deadline | None = None,
    warmup: int = 1,
    block: float = 0.002,
    cpu_clock: Literal["process", "thread"] = "process",
    prepare: Mapping[str, Callable[[], Any]] | None = None,
    tolerance: float = 0.1,
    switches_per_second: float = 0.0,
    gc_enabled: bool = False,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time the candidates against each other: each takes one sample a round, in a new order every round.

    A sample is interrupted when there were more than ``switches_per_second`` involuntary context switches
    for each second of its CPU time (by default: any at all), or when its wall time exceeds its CPU time
    by more than ``tolerance``. Interrupted samples are dropped and counted, unless that leaves fewer than
    five and less than half of them: then all of the candidate's are kept, and it is `Timing.disturbed`.

    Args:
        calls: the candidates by name.
        rounds: samples of each candidate.
        seconds: begin no further round after this much wall time, once three rounds are done.
        deadline: begin nothing that is not likely to end by then. A candidate that has no sample by then is
            not among the results. Until then, with five rounds or more, an interrupted sample is taken again
            in the same round, before anything that is good already; and rounds go on until each candidate
            has five good samples in rounds in which the first candidate has one as well; one that has not is
            disturbed.
        warmup: untimed calls of each candidate before the first round.
        block: a function that takes less than this many seconds is called several times in a sample.
        cpu_clock: CPU time of the whole ``"process"``, or of the calling ``"thread"`` alone.
        prepare: makes, untimed, the argument for each call of a candidate, which then is called once a
            sample; for a function that spoils what it is given.
        gc_enabled: by default the garbage collector is off during a sample, as in `timeit`, and what a
            sample leaves is collected after it. With True it stays on, as it is for a user, and
            everything is collected before each sample: no candidate pays for another's garbage.
        seed: of the orders.

    Raises:
        SpecError: an argument makes no sense.
        ArchcostError: a candidate raised; the message names it, and the exception is its ``__cause__``.
    """
    prepare = dict(prepare or {})
    _check(calls, rounds, seconds, warmup, block, cpu_clock, prepare, tolerance, switches_per_second)
    runs = {name: _named(name, call, prepare.get(name)) for name, call in calls.items()}
    step = _step(_CPU_CLOCKS[cpu_clock]) / 1e9
    block = max(block, 20 * step)
    turns = _Turns(
        runs, cpu_clock, deadline, lambda sample: _interrupted(sample, tolerance, step, switches_per_second)
    )
    shuffle = random.Random(seed).shuffle
    with _collector(gc_enabled) as tidy:
        for name in runs:
            turns.warm_up(name, warmup, None if name in prepare else block)
        start = _read(cpu_clock).wall
        number = 0
        patient = deadline is not None and rounds >= FEWEST
        while number < rounds or (patient and turns.lacking()):
            spent = (_read(cpu_clock).wall - start) / 1e9
            if seconds is not None and number >= _LEAST_ROUNDS and spent >= seconds:
                break
            if not turns.one_round(number, _TRIES if patient else 1, shuffle, tidy):
                break
            number += 1
    few = turns.lacking() if patient else ()
    return {
        name: _timing(name, found, turns.counts[name], name in few)
        for name, found in turns.samples.items()
        if found
    }


class _Turns:
    """The candidates of one comparison, with the samples so far."""

    def __init__(
        self,
        runs: dict[str, _Run],
        cpu_clock: str,
        deadline: Deadline | None,
        interrupted: Callable[[_Sample], bool],
    ) -> None:
        self.runs, self.cpu_clock, self.deadline, self.interrupted = runs, cpu_clock, deadline, interrupted
        self.samples: dict[str, list[_Sample]] = {name: [] for name in runs}
        self.counts = dict.fromkeys(runs, 1)
        self.order = list(runs)
        self.costs = dict.fromkeys(runs, 0.0)
        """About how long another sample takes by the wall clock, whatever goes with it."""

    def warm_up(self, name: str, warmup: int, block: float | None) -> None:
        """Untimed calls; and how many calls make a sample of at least ``block`` seconds, one for None."""
        for _ in range(warmup):
            self._run(name, 1)
        if block is None:
            return
        while self.counts[name] < _MOST_CALLS:
            found = self._run(name, self.counts[name])
            if found is None or found[1].wall - found[0].wall >= block * 1e9:
                break
            self.counts[name] *= 2

    def one_round(
        self, number: int, tries: int, shuffle: Callable[[list[str]], None], tidy: Callable[[], Any]
    ) -> bool:
        """A sample of each in a new order, then again of those that were interrupted; False where there was
        no time for all."""
        shuffle(self.order)
        names = self.order
        for attempt in range(tries):
            again = []
            for name in names:
                tidy()
                # Five rounds come first: what is taken again must leave time for them.
                later = (FEWEST - 1 - number) * sum(self.costs.values()) if attempt else 0.0
                found = self._run(name, self.counts[name], later)
                if found is None:
                    return attempt > 0
                sample = _difference(number, *found)
                sample = sample._replace(interrupted=self.interrupted(sample))
                self.samples[name].append(sample)
                if sample.interrupted:
                    again.append(name)
            names = again
        return True

    def lacking(self) -> list[str]:
        """Candidates with too few good samples in rounds in which the first candidate has one."""
        good = {
            name: {one.round for one in found if not one.interrupted} for name, found in self.samples.items()
        }
        first = next(iter(good.values()))
        return [name for name, rounds in good.items() if len(first & rounds) < FEWEST]

    def _run(self, name: str, times: int, later: float = 0.0) -> tuple[_Reading, _Reading] | None:
        """None where it is not likely to end in time, with so many seconds left for what comes later."""
        if self.deadline is None:
            return self.runs[name](times, self.cpu_clock)
        if not self.deadline.allows(self.costs[name] + max(0.0, later)):
            return None
        left = self.deadline.left
        found = self.runs[name](times, self.cpu_clock)
        self.costs[name] = left - self.deadline.left
        return found


def _interrupted(sample: _Sample, tolerance: float, step: float, switches_per_second: float) -> bool:
    switched = sample.switches is not None and sample.switches > switches_per_second * sample.cpu
    return switched or sample.wall - sample.cpu > tolerance * sample.cpu + 2 * step


def ratio(a: Timing, b: Timing, *, wall: bool = False) -> Ratio:
    """How many times as long ``a`` takes as ``b``, in CPU time or in ``wall`` time."""
    of_a, of_b = (dict(zip(t.rounds, t.wall_seconds if wall else t.cpu_seconds, strict=True)) for t in (a, b))
    pairs = [_quotient(of_a[number], of_b[number]) for number in of_a if number in of_b]
    if not pairs:
        return Ratio(_quotient(median(of_a.values()), median(of_b.values())), math.nan, 0)
    return Ratio(median(pairs), interquartile(pairs), len(pairs))


def _quotient(a: float, b: float) -> float:
    return a / b if b else math.inf if a else math.nan


def interquartile(values: Sequence[float]) -> float:
    """The middle half of the values, from end to end; nan for fewer than two."""
    if len(values) < 2:
        return math.nan
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low


def _read(cpu_clock: str) -> _Reading:
    """All clocks now. RUSAGE_SELF counts every thread, ended ones too, in one call; the files of
    /proc/self/task cost one read a thread and forget a thread that ends."""
    usage = resource.getrusage(resource.RUSAGE_SELF) if resource is not None else None
    return _Reading(time.perf_counter_ns(), _CPU_CLOCKS[cpu_clock](), usage and usage.ru_nivcsw)


def _difference(number: int, before: _Reading, after: _Reading) -> _Sample:
    known = before.switches is not None and after.switches is not None
    return _Sample(
        number,
        (after.wall - before.wall) / 1e9,
        (after.cpu - before.cpu) / 1e9,
        after.switches - before.switches if known else None,  # type: ignore[operator]
    )


def _step(clock: Callable[[], int]) -> int:
    """How far a clock moves at a time: under a microsecond on Linux, 15.6 ms on Windows."""
    start = clock()
    while (now := clock()) == start:
        pass
    return now - start


def _named(name: str, call: Callable[..., Any], prepare: Callable[[], Any] | None) -> _Run:
    """The candidate as a function of the number of calls; what it raises bears its name."""

    def run(times: int, cpu_clock: str = "process") -> tuple[_Reading, _Reading]:
        try:
            if prepare is not None:
                spoilt = prepare()
                before = _read(cpu_clock)
                call(spoilt)
                return before, _read(cpu_clock)
            repeats = range(times)
            before = _read(cpu_clock)
            for _ in repeats:
                call()
            return before, _read(cpu_clock)
        except Exception as error:
            raise ArchcostError(f"candidate {name!r} raised {type(error).__name__}: {error}") from error

    return run


@contextmanager
def _collector(enabled: bool) -> Iterator[Callable[[], Any]]:
    """Gives what to call before a sample. What one made while the collector was off is all young."""
    was_enabled = gc.isenabled()
    gc.collect()
    if enabled:
        gc.enable()
    else:
        gc.disable()
    try:
        yield gc.collect if enabled else lambda: gc.collect(1)
    finally:
        if was_enabled:
            gc.enable()
        else:
            gc.disable()


def _timing(name: str, samples: list[_Sample], calls: int, lacks_pairs: bool) -> Timing:
    quiet = [sample for sample in samples if not sample.interrupted]
    disturbed = len(quiet) < len(samples) and (
        lacks_pairs or (len(quiet) < FEWEST and 2 * len(quiet) < len(samples))
    )
    kept = samples if disturbed else quiet
    switches = [sample.switches for sample in kept if sample.switches is not None]
    return Timing(
        name=name,
        cpu_seconds=tuple(sample.cpu / calls for sample in kept),
        wall_seconds=tuple(sample.wall / calls for sample in kept),
        rounds=tuple(sample.round for sample in kept),
        calls=calls,
        dropped=len(samples) - len(kept),
        disturbed=disturbed,
        switches=sum(switches) if len(switches) == len(kept) else None,
    )


def _check(
    calls: Any,
    rounds: Any,
    seconds: Any,
    warmup: Any,
    block: Any,
    cpu_clock: Any,
    prepare: dict[str, Any],
    tolerance: Any,
    switches_per_second: Any,
) -> None:
    if not isinstance(calls, Mapping) or not calls:
        raise SpecError(f"calls must be a dict of names to functions, with at least one; got {calls!r}")
    for name, call in [*calls.items(), *prepare.items()]:
        if not callable(call):
            raise SpecError(f"candidate {name!r} must be a function without arguments; got {call!r}")
    for name in prepare:
        if name not in calls:
            raise SpecError(f"prepare names {name!r}, which is no candidate; there are {', '.join(calls)}")
    for what, number, least in (("rounds", rounds, 1), ("warmup", warmup, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise SpecError(f"{what} must be a whole number, at least {least}; got {number!r}")
    for what, number in (("seconds", seconds), ("block", block)):
        if number is not None and not (_is_number(number) and number > 0):
            raise SpecError(f"{what} must be a number of seconds above 0; got {number!r}")
    for what, number in (("tolerance", tolerance), ("switches_per_second", switches_per_second)):
        if not (_is_number(number) and number >= 0):
            raise SpecError(f"{what} must be a number, at least 0; got {number!r}")
    if cpu_clock not in _CPU_CLOCKS:
        raise SpecError(f"cpu_clock must be 'process' or 'thread'; got {cpu_clock!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
