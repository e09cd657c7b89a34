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
    """Costs of the model that is planned for, its blocks merged."""
    given: Mapping[str, float]
    """Costs of the given model, of which budgets are shares."""

    def share(self, name: str) -> float:
        """The limit as a share of the whole model's."""
        return self.most[name] / self.given[name] if self.given[name] else 1.0


def totals_of(analysis: Analysis) -> dict[str, float]:
    """The whole model's MACs, parameters and bytes of weights."""
    total = analysis.total
    return {
        "macs": float(total.macs),
        "params": float(total.params),
        "memory": float(total.param_bytes + total.buffer_bytes),
    }


def limits_of(budget: Budget, totals: Mapping[str, float], given: Mapping[str, float]) -> Limits:
    """The limits of a budget: shares up to 1 of the whole model, absolute numbers above.

    Args:
        totals: of the model that is planned for.
        given: of the given model.

    Raises:
        InputError: the budget limits nothing that can be chosen for.
    """
    most: dict[str, float] = {}
    for name in RESOURCES:
        value = getattr(budget, name)
        if value is None:
            continue
        if name not in given:
            raise InputError(f"budget: {name} is not known for this model")
        most[name] = float(value) * given[name] if float(value) <= 1 else float(value)
    for name, limit in (("macs", budget.max_macs), ("params", budget.max_params)):
        if limit is not None:
            most[name] = min(float(limit), most.get(name, float("inf")))
    if not most and budget.sram is None:  # which is held by the candidates: `archcost.optimizing.deployed`
        raise InputError(
            "budget: nothing is limited; give Budget(macs=0.5), or a share of params, memory or latency"
        )
    return Limits(most, totals, given)
