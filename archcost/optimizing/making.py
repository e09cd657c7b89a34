"""Selections within limits, carried out on copies of the model; and the least model within an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from archcost.analysis.budget import Budget
from archcost.errors import InputError, RewriteError
from archcost.optimizing.limits import RESOURCES, Limits
from archcost.optimizing.measured import measured
from archcost.optimizing.pacing import kept_in_time, paced
from archcost.optimizing.planning import Choosing, Planned, Selection
from archcost.optimizing.selecting import carried
from archcost.optimizing.stages import Carried, Task

__all__ = ["Making"]

_HALVINGS = 5
"""Steps of the bisection for an error."""


@dataclass(eq=False)
class Making:
    """Selections within limits, carried out on copies of the model."""

    task: Task
    planned: Planned
    evaluate: Callable[[nn.Module], float] | None
    refit: bool
    trials: int

    def selections(self, limits: Limits) -> list[Selection]:
        """The selections that are worth carrying out, the most likely first."""
        task = self.task
        if "latency" in limits.most:
            with task.timed("times"):
                self.planned = paced(task, self.planned, lambda planned: self.choosing(limits, planned))
        choosing = self.choosing(limits, self.planned)
        with task.timed("choice"):
            if task.data is None and self.evaluate is None:  # nothing tells selections apart
                found = [choosing.usual("sensitivity", choosing.sensitive)]
            else:
                found = measured(task, choosing, choosing.selections(task.rules), self.trials)
        if "latency" in limits.most:
            with task.timed("times"):
                found = kept_in_time(task, self.planned, limits.most["latency"], found)
        return found

    def choosing(self, limits: Limits, planned: Planned) -> Choosing:
        """The choice within limits."""
        limits = replace(limits, totals=planned.totals)
        return Choosing(self.task.layers, planned.candidates, limits, planned.response, planned.seconds)

    def least(self, resource: str) -> float:
        """The least of a resource that can be reached."""
        planned, layers = self.planned, self.task.layers
        empty = Limits({resource: planned.totals[resource]}, planned.totals, planned.given)
        choosing = Choosing(layers, planned.candidates, empty, planned.response, planned.seconds)
        return choosing.least(resource)

    def within(self, limits: Limits) -> tuple[Carried, list[Carried]]:
        """The best selection within the limits, and all that were carried out."""
        return carried(self.task, self.selections(limits), self.evaluate, self.refit)

    def within_error(self, asked: Budget) -> tuple[Carried, list[Carried], Limits]:
        """The fewest MACs whose outputs move no further than asked, by bisection within the other limits.

        Raises:
            InputError: there are no batches to measure an error on.
            RewriteError: outputs move further even with the most that the other limits allow.
        """
        if self.task.data is None:
            raise InputError("optimize: an error is measured on held-out inputs: give batches")
        most = float(asked.error or 0.0)
        other = any(getattr(asked, name) is not None for name in RESOURCES) or asked.max_macs is not None
        first = self.planned.limits(asked if other else replace(asked, macs=0.95))
        best, all_ = self.within(first)
        found = best, all_, first
        if best.error > most:
            raise RewriteError(
                f"the budget cannot be kept: outputs move by {best.error:.3g} at "
                f"{first.most}, more than {most:.3g}: give a larger budget or error"
            )
        low, high = 0.0, best.selection.spends["macs"] / self.planned.given["macs"]
        for _ in range(0 if other else _HALVINGS):
            middle = (low + high) / 2
            limits = self.planned.limits(Budget(macs=middle))
            try:
                best, all_ = self.within(limits)
            except RewriteError:
                low = middle
                continue
            if best.error <= most:
                found, high = (best, all_, limits), middle
            else:
                low = middle
        return found
