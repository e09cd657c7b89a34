"""What a model's own layers took inside real forward passes, beside what the passes took end to end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from archcost.latency.timing.engine import TimeStats

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CallTime", "InContext", "TimeStats"]


@dataclass(frozen=True)
class CallTime(TimeStats):
    """One call of a module: its own time, without that of the modules that it called."""

    name: str
    """As in ``named_modules()``; the model itself has the empty name."""
    type: str
    call: int
    """0 for the first call of this name in a pass, 1 for the second."""
    leaf: bool
    """It called no other module; else this is what it did between its children's calls."""


@dataclass(frozen=True)
class InContext:
    """Every call of a pass with its own time; together they are the pass."""

    calls: tuple[CallTime, ...]
    end_to_end: TimeStats
    """Passes without hooks, taken in turns with those with them."""
    with_hooks: TimeStats
    """The passes that the calls are from, the hooks' own cost included."""
    hooks_cost: float
    """Seconds a pass that the hooks took, by a measurement of their own; subtracted from the calls."""
    paired_difference: float
    """How much longer a pass with hooks took, their cost subtracted, than the one without of the same round:
    the median over the rounds. Where the machine's speed wanders it is known better than `difference`."""
    passes: int
    """Of each of the two kinds."""
    other_routes: int
    """Passes left out because other modules were called than in most."""
    clock: Literal["cpu", "wall", "cuda"]
    device: str
    threads: int
    dtype: str
    """Of the model."""
    inputs: str
    """Their shapes, the batch included, as in ``1x3x224x224 float32``."""
    training: bool
    """The model's own flag: nothing is set for measuring."""
    torch: str

    @property
    def total(self) -> float:
        """The sum of the calls' medians."""
        return sum(call.median_s for call in self.calls)

    @property
    def difference(self) -> float:
        """How far the sum is from end to end, relative to it: 0.02 is 2 % too long.

        Where every pass was interrupted and the calls were not, it has the interruptions in it as well.
        """
        return self.total / self.end_to_end.median_s - 1 if self.end_to_end.median_s else math.nan

    @property
    def disturbed(self) -> bool:
        """End to end, or some call of more than a hundredth of it, was never measured undisturbed."""
        least = self.end_to_end.median_s / 100
        return self.end_to_end.disturbed or any(c.disturbed and c.median_s > least for c in self.calls)

    def frame(self) -> pd.DataFrame:
        """One row a call, in order; shares are of the sum."""
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
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        end, together = self.end_to_end, self.total * 1e3
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        mode = ", in training mode" if self.training else ""
        lines = [
            f"{len(self.calls)} calls: {together:.3f} ms together, {self.difference:+.1%} from end to end "
            f"({self.paired_difference:+.1%} round by round)",
            f"end to end: {end.median_s * 1e3:.3f} ms, spread {end.spread_s * 1e3:.3f} ms "
            f"({end.samples} kept, {end.dropped} dropped{', DISTURBED' if end.disturbed else ''})",
            f"with hooks: {self.with_hooks.median_s * 1e3:.3f} ms; the hooks cost "
            f"{self.hooks_cost * 1e3:.3f} ms, which is subtracted",
            f"{self.clock} time, {threads}, {self.dtype}, input {self.inputs}{mode}; {self.device}",
        ]
        if self.other_routes:
            lines.append(f"{self.other_routes} passes called other modules and are left out")
        return "\n".join(lines)
