"""Findings: what was asked of `accelerate`, and what is known of the program so far."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch

from archcost.engine.acceleration import Acceleration, StepTime
from archcost.engine.kept import Kept
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.timing.clock import Ratio, Timing, ratio
from archcost.latency.timing.deadline import FEWEST, now
from archcost.latency.timing.thresholds import STANDARD_ERROR
from archcost.trace.call import Call

__all__ = ["Asked", "Findings"]

_THOROUGH = 60.0
"""Seconds of which some may go into comparing every layer with float64."""
_LEAST_GAIN = 1.01
# So much as a median is no noise, however few the pairs; nor is less, of a few that agree.
_CLEAR_GAIN, _AGREED_GAIN, _AGREEING = 1.5, 1.2, 3
# The noise is taken to be this at least where the samples were interrupted.
_DISTURBED_NOISE = 0.05


@dataclass(frozen=True)
class Asked:
    name: str
    call: Call
    tolerance: float
    seconds: tuple[float, ...]
    kept: Kept
    tunes: bool
    """Whether variants are compared inside of the program as well."""

    @property
    def layers(self) -> bool:
        """Whether there is time to compare every layer."""
        return self.seconds[0] >= _THOROUGH


class Findings:
    """Times, errors and notes of a program while it is measured; `made` turns them into an `Acceleration`."""

    def __init__(self, asked: Asked, notes: list[str], began: float) -> None:
        self.asked, self.notes, self.began = asked, notes, began
        self.reference = "original"
        self.error: float | None = None
        self.original_error = 0.0
        self.pass_s = 0.0
        """Seconds of one pass of the original."""
        self.ratio: Ratio | None = None
        self.original_ms: float | None = None
        self.accelerated_ms: float | None = None
        self.samples = self.dropped = 0
        self.disturbed = False
        self.arena_bytes: int | None = None
        self.weights_bytes: int | None = None
        self.steps: tuple[StepTime, ...] = ()

    def times(self, timings: dict[str, Timing]) -> None:
        if len(timings) < 2:
            return
        wall = torch.get_num_threads() > 1
        before, after = timings["original"], timings["accelerated"]
        self.ratio = ratio(before, after, wall=wall)
        self.original_ms, self.accelerated_ms = (
            1e3 * (one.wall_median if wall else one.median) for one in (before, after)
        )
        self.samples, self.dropped = after.kept, after.dropped
        self.disturbed = before.disturbed or after.disturbed

    def gains(self) -> bool:
        """Whether the ratio is above 1 beyond its noise: twice the standard error of its median."""
        if self.ratio is None:
            return False
        if self.ratio.pairs < FEWEST:
            least = self.ratio.median - 2 * self.ratio.spread
            agreed = self.ratio.pairs >= _AGREEING and not self.disturbed and least > _AGREED_GAIN
            return agreed or self.ratio.median > _CLEAR_GAIN
        noise = 2 * STANDARD_ERROR * self.ratio.spread / sqrt(self.ratio.pairs)
        return self.ratio.median - 1 > max(_LEAST_GAIN - 1, noise, _DISTURBED_NOISE * self.disturbed)

    def too_little(self) -> str:
        if self.ratio is None or self.ratio.pairs < FEWEST:
            return f"fewer than {FEWEST} pairs of passes were timed: give more seconds, or a quieter machine"
        return f"the program gains no more than the noise ({self.ratio.median:.2f}x)"

    def made(self, reason: str | None) -> Acceleration:
        given = self.asked.call.tensors
        return Acceleration(
            model_name=self.asked.name,
            changed=reason is None,
            reason=reason,
            steps=self.steps,
            ratio=self.ratio,
            original_ms=self.original_ms,
            accelerated_ms=self.accelerated_ms,
            samples=self.samples,
            dropped=self.dropped,
            error=self.error,
            original_error=None if self.error is None else self.original_error,
            reference=self.reference,
            tolerance=self.asked.tolerance,
            arena_bytes=self.arena_bytes,
            weights_bytes=self.weights_bytes,
            ready_s=now() - self.began,
            device=str(fingerprint()),
            threads=torch.get_num_threads(),
            batch=given[0].shape[0] if given and given[0].dim() else None,
            torch=str(torch.__version__),
            notes=tuple(self.notes),
            variants_timed=self.asked.kept.timed,
            variants_read=self.asked.kept.read,
        )
