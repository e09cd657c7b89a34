"""InContext: the times of a model's module calls inside real forward passes, and of the whole pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from archcost.latency.timing.engine import TimeStats
from archcost.latency.timing.thresholds import UNRELIABLE

if TYPE_CHECKING:
    import pandas as pd

    from archcost.latency.timing.stopwatch import System

__all__ = ["CallTime", "InContext", "TimeStats"]


@dataclass(frozen=True)
class CallTime(TimeStats):
    """The own time of a module call: without that of the modules that it called."""

    name: str
    """As in ``named_modules()``; the model itself has the empty name."""
    type: str
    """The class of the module."""
    call: int
    """0 for the first call of this name in a pass, 1 for the second."""
    leaf: bool
    """Whether it called no other module; else its own time is that between its children's calls."""


@dataclass(frozen=True)
class InContext:
    """The own time of every module call of a forward pass: together they are the pass."""

    calls: tuple[CallTime, ...]
    end_to_end: TimeStats
    """The time of passes without hooks, taken in turns with those with hooks."""
    with_hooks: TimeStats
    """The time of the passes in which the calls were timed, the hooks' own cost included."""
    hooks_cost: float
    """Seconds that the hooks take in a pass, measured apart and subtracted from the calls."""
    paired_difference: float
    """The median over the rounds of how much longer the pass with hooks took, their cost subtracted.

    Relative to the pass without hooks. Better known than `difference` where the machine's speed wanders."""
    passes: int
    """The number of passes of each kind."""
    other_routes: int
    """The number of passes left out because they called other modules than most."""
    clock: Literal["cpu", "wall", "cuda"]
    device: str
    """Machine and software."""
    threads: int
    """Threads of PyTorch."""
    dtype: str
    """The dtype of the model."""
    inputs: str
    """Shapes of the inputs, the batch included, with dtypes, as in ``1x3x224x224 float32``."""
    training: bool
    """Whether the model was in training mode, which measuring leaves as it is."""
    torch: str
    """The version of PyTorch."""
    system: System | None = None
    """System time and page faults of a pass, the medians; None: the platform does not count them."""

    @property
    def total(self) -> float:
        """The sum of the calls' medians, in seconds."""
        return sum(call.median_s for call in self.calls)

    @property
    def difference(self) -> float:
        """The sum of the calls relative to the time end to end, less 1: 0.02 is 2 % too long.

        Where every pass was interrupted and the calls were not, it includes the interruptions.
        """
        return self.total / self.end_to_end.median_s - 1 if self.end_to_end.median_s else math.nan

    @property
    def disturbed(self) -> bool:
        """Whether the time end to end, or of a call of more than a hundredth of it, is unreliable."""
        least = self.end_to_end.median_s / 100
        return self.end_to_end.disturbed or any(c.disturbed and c.median_s > least for c in self.calls)

    def frame(self) -> pd.DataFrame:
        """A pandas table with a row for each call, in order; ``share`` is the part of the sum."""
        import pandas as pd

        total = self.total or math.nan
        rows = [
            {
                "name": call.name,
                "type": call.type,
                "call": call.call,
                "leaf": call.leaf,
                "latency_ms": call.median_s * 1e3,
                "spread_ms": call.spread_s * 1e3,
                "share": call.median_s / total,
                "samples": call.samples,
                "dropped": call.dropped,
                "disturbed": call.disturbed,
            }
            for call in self.calls
        ]
        table: pd.DataFrame = pd.DataFrame(rows)
        return table

    def __str__(self) -> str:
        end, together = self.end_to_end, self.total * 1e3
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        mode = ", in training mode" if self.training else ""
        lines = [
            f"{len(self.calls)} calls: {together:.3f} ms in sum, {self.difference:+.1%} against end to end "
            f"({self.paired_difference:+.1%} round by round)",
            f"end to end: {end.median_s * 1e3:.3f} ms, spread {end.spread_s * 1e3:.3f} ms "
            f"({end.samples} kept, {end.dropped} dropped){f'; {UNRELIABLE}' * end.disturbed}",
            f"with hooks: {self.with_hooks.median_s * 1e3:.3f} ms; the hooks cost "
            f"{self.hooks_cost * 1e3:.3f} ms, which is subtracted",
            f"{self.clock} time, {threads}, {self.dtype}, input {self.inputs}{mode}; {self.device}",
        ]
        if self.other_routes:
            lines.append(f"{self.other_routes} passes called other modules and were left out")
        return "\n".join(lines)
