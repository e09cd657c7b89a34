"""Requests: latency as operators of services know it, with the tail, from whole forward passes by the wall.

Interrupted passes count: to who waits, an interruption is latency. A percentile is told only from enough
passes: the largest of n lies above the percentile p with probability 1 - p^n, and 95 % of that take 59 passes
for p95 and 299 for p99.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, log
from statistics import median
from typing import TYPE_CHECKING

from archcost.latency.timing.deadline import Deadline, now
from archcost.latency.timing.engine import interquartile
from archcost.latency.timing.passing import as_it_is, passed
from archcost.latency.timing.settings import settings
from archcost.latency.timing.thresholds import FEWEST

if TYPE_CHECKING:
    from torch import nn

    from archcost.trace.call import Call

__all__ = ["Requests", "needed_for", "requests_of", "time_requests"]

# Certainty with which the largest pass lies above a percentile that is told.
_SURE = 0.95


def needed_for(share: float) -> int:
    """The fewest passes from which the percentile ``share`` is told: 59 for 0.95, 299 for 0.99."""
    return ceil(log(1 - _SURE) / log(share))


@dataclass(frozen=True)
class Requests:
    """The wall times of forward passes one after the other, none left out, at one batch."""

    seconds: tuple[float, ...]
    """The time of each pass, in order."""
    batch: int
    threads: int

    @property
    def median_ms(self) -> float:
        """The median time of a pass."""
        return 1e3 * median(self.seconds)

    @property
    def spread_ms(self) -> float:
        """The interquartile range."""
        return 1e3 * interquartile(self.seconds)

    def percentile_ms(self, share: float) -> float | None:
        """The time that the share of all passes keeps; None where there were too few to say so."""
        if len(self.seconds) < needed_for(share):
            return None
        return 1e3 * sorted(self.seconds)[ceil(share * len(self.seconds)) - 1]

    @property
    def p95_ms(self) -> float | None:
        """95 of 100 passes take no longer; None for fewer than 59 passes."""
        return self.percentile_ms(0.95)

    @property
    def p99_ms(self) -> float | None:
        """99 of 100 passes take no longer; None for fewer than 299 passes."""
        return self.percentile_ms(0.99)

    @property
    def throughput(self) -> float:
        """Inputs a second, all passes together."""
        return self.batch * len(self.seconds) / sum(self.seconds)

    def record(self) -> dict[str, float | int | None]:
        """Plain values for JSON."""
        names = ("median_ms", "spread_ms", "p95_ms", "p99_ms", "throughput", "batch", "threads")
        return {"passes": len(self.seconds), **{name: getattr(self, name) for name in names}}

    def __str__(self) -> str:
        tail = []
        for name, share in (("p95", 0.95), ("p99", 0.99)):
            value = self.percentile_ms(share)
            lacking = f"{name} not known: it takes {needed_for(share)} passes"
            tail.append(lacking if value is None else f"{name} {value:.3f} ms")
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return (
            f"median {self.median_ms:.3f} ms, {', '.join(tail)}; {self.throughput:,.4g} inputs a second at "
            f"batch {self.batch} and {threads} ({len(self.seconds)} passes, none left out)"
        )


def requests_of(run: Callable[[], object], batch: int, limit: float) -> Requests | None:
    """Time a function, once warm, until there are 299 passes or the seconds are up; None for fewer than 5."""
    import torch

    on_cuda = torch.cuda.is_available()
    seconds: list[float] = []
    run()
    deadline = Deadline(limit)
    while len(seconds) < needed_for(0.99):
        if seconds and not deadline.allows(median(seconds)):
            break
        start = now()
        run()
        if on_cuda:
            torch.cuda.synchronize()
        seconds.append(now() - start)
    if len(seconds) < FEWEST:
        return None
    return Requests(tuple(seconds), batch, torch.get_num_threads())


def time_requests(
    model: nn.Module, call: Call, batch: int, *, seconds: float, threads: int | None = None
) -> Requests | None:
    """The wall times of forward passes of a model, which comes back untouched.

    Args:
        model: the model, in the mode in which it is to be timed.
        call: its inputs.
        batch: the number of inputs among them, for the throughput.
        seconds: begin no further pass after this much wall time.
        threads: threads of PyTorch; by default as many as it has now.

    Returns:
        The times; None where there was no time for five passes.

    Raises:
        ModelError: the model's forward raises.
    """
    from archcost.trace.modules import walk

    call = call.cloned()
    run = partial(passed, partial(model, *call.args, **call.kwargs), "timed")
    with as_it_is(walk(model)), settings(threads=threads):
        return requests_of(run, batch, seconds)
