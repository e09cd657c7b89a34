"""Each distinct convolution timed alone on its candidate paths, which take turns.

A layer alone finds its input in a warm cache: these times compare paths with each other, and are no part of
the time that the model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING

from archcost.latency.candidates import Candidate, TimingOptions, calls_of, candidates_of, is_far
from archcost.latency.convolutions import ConvTask, ConvTensors
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.timing.clock import Timing
from archcost.latency.timing.deadline import Deadline, now
from archcost.latency.timing.engine import clock_for, once
from archcost.latency.timing.thresholds import BLOCK_S, FEWEST, HOPELESS, ROUNDS
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PathTimes", "TimingOptions", "is_rough", "time_paths"]

# Largest share of the remaining time for the first look at a convolution.
_MOST_LOOKING = 0.5


@dataclass(frozen=True)
class PathTimes:
    """A distinct convolution, timed on its paths."""

    task: ConvTask
    measurements: tuple[Measurement, ...]
    errors: Mapping[str, float]
    """max |y - exact| / max |exact| by path, with this model's own weights and input."""
    refused: Mapping[str, str]
    """The reason by path, for those that were skipped."""
    reused: bool = False
    """Whether the times are from the store."""


def is_rough(one: Measurement) -> bool:
    """Whether the time has fewer than five samples: the path was far behind, or time was short."""
    return one.samples < FEWEST


def time_paths(
    samples: Mapping[ConvTask, ConvTensors], options: TimingOptions, deadline: Deadline
) -> Iterator[PathTimes]:
    """Time each convolution on its candidates; yields it once done, those in the store first.

    The longest come first, each with a share of the time by how long PyTorch takes for it; those that the
    deadline does not reach are left out. Rough or disturbed times in the store are measured again after all
    others, and yielded as they are where there is no time for that.

    Args:
        samples: real input, weight and bias of each convolution.
        options: how to time, and which paths.
        deadline: nothing is begun that is not likely to end by then.
    """
    waiting: dict[ConvTask, float] = {}
    doubtful: dict[ConvTask, PathTimes] = {}
    for task, tensors in samples.items():
        stored, good = _from_store(_Timer(task, tensors, options, deadline))
        if stored is not None and good:
            yield stored
            continue
        if stored is not None:
            doubtful[task] = stored
        if not deadline.passed:
            waiting[task] = max(BLOCK_S, _native_seconds(task, tensors, options))
    left, looks, looked = sum(waiting.values()), 0.0, 1e-9
    for task in sorted(waiting, key=lambda one: (one in doubtful, -waiting[one])):
        start, own = now(), waiting[task]
        # A first look that is not likely to end in time is not begun.
        if not deadline.allows(own * looks / looked):
            continue
        left = max(left - own, 0.0)
        timer = _Timer(task, samples[task], options, deadline)
        # A convolution whose paths take long to prepare must leave time for the others.
        timer.look(deadline.within(deadline.left * _MOST_LOOKING))
        looks, looked = looks + now() - start, looked + own
        # Time is kept for the first looks at the convolutions that follow.
        free = deadline.left - left * looks / looked
        timer.time(free * own / (own + left))
        found = timer.found()
        if found is not None:
            doubtful.pop(task, None)
            yield found
    yield from doubtful.values()


class _Timer:
    """Times a convolution: a first look at all candidates, then those near the fastest in turns."""

    def __init__(
        self, task: ConvTask, tensors: ConvTensors, options: TimingOptions, deadline: Deadline
    ) -> None:
        self.task, self.tensors, self.options, self.deadline = task, tensors, options, deadline
        self.device = fingerprint()
        self.candidates, self.refused = candidates_of(task, tensors, options)
        self.errors: dict[str, float] = {}
        self.seen: dict[str, float] = {}
        self.calls: dict[Candidate, Callable[[], Tensor]] = {}
        self.timings: dict[str, Timing] = {}

    def look(self, until: Deadline) -> None:
        """Take a sample of every candidate after its first call; where that was far behind, it is the sample.

        None is begun after ``until``. PyTorch's own comes first: without it nothing can be compared.
        """
        self.check(["native"])
        self.calls, first = calls_of(
            self.task, self.tensors, self.candidates, self.options, self.refused, until
        )
        if self.calls:
            far = {c for c in first if is_far(c, first)}
            self.timings = {_called(c): _once(c, first[c]) for c in far}
            near = {c: call for c, call in self.calls.items() if c not in far}
            self._compare(near, rounds=1, deadline=self.deadline)
            self.judge(self._times(), HOPELESS)

    def judge(self, seconds: Mapping[Candidate, float], within: float) -> list[Candidate]:
        """The candidates within a factor of the fastest and the tolerance; no other errors are computed."""
        while True:
            usable = {c: took for c, took in seconds.items() if c[0] not in self.refused}
            most = within * min(usable.values(), default=0.0)
            near = [c for c, took in usable.items() if took <= most or c[0] == "native"]
            unknown = [path for path in dict.fromkeys(path for path, _ in near) if path not in self.errors]
            if not unknown:
                return near
            self.check(unknown)

    def check(self, paths: Sequence[str]) -> None:
        """Compute the errors of these paths with the real weights; refuse those above the tolerance."""
        from archcost.paths.eligibility import tried
        from archcost.paths.registry import get

        for name in paths:
            if self.deadline.passed:
                self.refused[name] = "no time was left to compute its error"
                continue
            spec, x, exact = self._exact
            tensors, tolerance = self.tensors, self.options.tolerance
            one = tried(get(name), x, tensors.weight, tensors.bias, spec, exact, tolerance)
            if one.error is not None:
                self.seen[name] = one.error
            # PyTorch's own path stays whatever its error: the model runs it, and others are compared with it.
            if one.error is not None and (one.eligible or name == "native"):
                self.errors[name] = one.error
            else:
                self.refused[name] = one.reason or "it failed"

    @cached_property
    def _exact(self) -> tuple[ConvSpec, Tensor, Tensor]:
        """The convolution of the first image: its spec, input and exact output."""
        from archcost.paths.accuracy import exact_convolution

        spec, x = replace(self.task.spec, batch=1), self.tensors.x[:1]
        return spec, x, exact_convolution(x, self.tensors.weight, spec, self.tensors.bias)

    def time(self, seconds: float) -> None:
        """Time the candidates near the fastest, in turns, while time is left."""
        near = self.judge(self._times(), HOPELESS)
        if near and seconds > 0:
            deadline = self.deadline.within(seconds)
            self._compare({c: self.calls[c] for c in near}, rounds=ROUNDS, deadline=deadline)

    def found(self) -> PathTimes | None:
        """The times so far, also put into the store; None where PyTorch's own path was not even timed."""
        made = [self._measurement(c) for c in self.calls if _called(c) in self.timings]
        if self.options.store is not None:
            self.options.store.put_many(made)
        if "native" not in self.errors or not made:
            return None
        return PathTimes(self.task, tuple(made), self.errors, self.refused)

    def key(self, candidate: Candidate) -> Key:
        (path, layout), task, options = candidate, self.task, self.options
        return Key(self.device.hash, task.spec, task.dtype, path, layout, options.threads, options.kind)

    def _compare(
        self, calls: Mapping[Candidate, Callable[[], Tensor]], rounds: int, deadline: Deadline
    ) -> None:
        import torch

        named = {_called(c): call for c, call in calls.items()}
        which = "thread" if self.options.threads == 1 else "process"
        with torch.inference_mode():
            self.timings |= self.options.compare(
                named, cpu_clock=which, block=BLOCK_S, warmup=0, rounds=rounds, deadline=deadline
            )

    def _measurement(self, candidate: Candidate) -> Measurement:
        from archcost.paths.registry import get

        error, itemsize = self.seen.get(candidate[0]), 8 if self.task.dtype == "float64" else 4
        return Measurement.of(
            self.key(candidate),
            self.timings[_called(candidate)],
            self.device,
            error=error if error is not None and error < inf else None,
            workspace_bytes=get(candidate[0]).workspace_bytes(self.task.spec, itemsize),
        )

    def _times(self) -> dict[Candidate, float]:
        """Median seconds of the candidates timed so far."""
        timed = {c: self.timings[_called(c)] for c in self.calls if _called(c) in self.timings}
        return {c: one.by(clock_for(self.options.threads)).median_s for c, one in timed.items()}


def _from_store(timer: _Timer) -> tuple[PathTimes | None, bool]:
    """The times in the store, where they cover all candidates, and whether they need not be measured again.

    Errors are computed with the real weights.
    """
    store, options = timer.options.store, timer.options
    if store is None or options.again:
        return None, False
    usable = {c: one for c in timer.candidates if (one := store.get(timer.key(c))) is not None}
    native = [one for (path, _), one in usable.items() if path == "native"]
    if not native:
        return None, False
    # A path that failed then is not in the store, and must fail again; a new path has to be measured.
    missing = [path for path, _ in timer.candidates if path not in {path for path, _ in usable}]
    timer.check(list(dict.fromkeys(missing)))
    if timer.deadline.passed or any(path in timer.errors for path in missing):
        return None, False
    # A path above the tolerance then, and within it now, was never timed in turns.
    near = timer.judge({c: one.median_s for c, one in usable.items()}, HOPELESS / 2)
    if timer.deadline.passed:
        return None, False
    rough = all(map(is_rough, native)) or any(is_rough(usable[c]) for c in near if c[0] != "native")
    # A time that may decide must not come from a busy machine.
    busy = any(usable[c].disturbed and not is_rough(usable[c]) for c in near)
    stored = PathTimes(timer.task, tuple(usable.values()), timer.errors, timer.refused, reused=True)
    return stored, not (rough or busy)


def _native_seconds(task: ConvTask, tensors: ConvTensors, options: TimingOptions) -> float:
    """Roughly how long PyTorch takes, by which the time is shared out."""
    import torch

    from archcost.paths.registry import get

    native = get("native")
    with torch.inference_mode():
        prepared = native.prepare(tensors.weight, tensors.bias, task.spec)
        native.run(tensors.x, prepared)
        return once(lambda: native.run(tensors.x, prepared), options.threads)


def _once(candidate: Candidate, seconds: float) -> Timing:
    return Timing(_called(candidate), (seconds,), (seconds,), (0,), 1, 0, False, None)


def _called(candidate: Candidate) -> str:
    return f"{candidate[0]} {candidate[1]}"
