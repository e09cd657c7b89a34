"""A budget read against a model: the most of each resource, in its own unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archcost.analysis.analysis import Analysis
from archcost.analysis.budget import Budget
from archcost.errors import InputError

__all__ = ["RESOURCES", "Limits", "limits_of"]

RESOURCES = ("macs", "params", "memory", "latency", "flash")
"""What a budget of `archcost.optimize` is spent on."""


@dataclass(frozen=True)
class Limits:
    """The most of each resource that is limited, by name, and the totals of the model as it is."""

    most: Mapping[str, float]
    totals: Mapping[str, float]

    def share(self, name: str) -> float:
        """The limit as a share of the whole model's."""
        return self.most[name] / self.totals[name] if self.totals[name] else 1.0


def totals_of(analysis: Analysis, seconds: float | None = None) -> dict[str, float]:
    """The whole model's MACs, parameters, bytes of weights and, where it is known, seconds."""
    total = analysis.total
    found = {
        "macs": float(total.macs),
        "params": float(total.params),
        "memory": float(total.param_bytes + total.buffer_bytes),
    }
    return found if seconds is None else {**found, "latency": seconds}


def limits_of(budget: Budget, totals: Mapping[str, float]) -> Limits:
    """The limits of a budget: shares up to 1 of the whole model, absolute numbers above.

    Raises:
        InputError: the budget limits nothing that can be chosen for.
    """
    most: dict[str, float] = {}
    for name in RESOURCES:
        value = getattr(budget, name)
        if value is None:
            continue
        if name not in totals:
            raise InputError(f"budget: {name} is not known for this model")
        most[name] = float(value) * totals[name] if float(value) <= 1 else float(value)
    for name, limit in (("macs", budget.max_macs), ("params", budget.max_params)):
        if limit is not None:
            most[name] = min(float(limit), most.get(name, float("inf")))
    if not most and budget.sram is None:  # which is held by the candidates: `archcost.optimizing.deployed`
        raise InputError(
            "budget: nothing is limited; give Budget(macs=0.5), or a share of params, memory or latency"
        )
    return Limits(most, totals)
