"""frontier: error against cost, a plan a point, beside simpler ways to choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from archcost.analysis.budget import Budget
from archcost.errors import InputError, RewriteError
from archcost.optimizing.candidates import Candidate
from archcost.optimizing.making import Making
from archcost.optimizing.optimize import Batches, task_of
from archcost.optimizing.outcome import plan_of
from archcost.optimizing.planning import Choosing, Selection
from archcost.optimizing.stages import Carried
from archcost.optimizing.statistics import CEILING
from archcost.optimizing.verify import Moved
from archcost.report.columns import number, words
from archcost.report.document import Asked, Document, Page, Table, ordered
from archcost.report.page.parts import Along, Fact, Measure, Picture
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.rewriting.plan.plan import Plan
from archcost.trace.call import Inputs

if TYPE_CHECKING:
    from archcost.surgery.sites import Hooks
    from archcost.trace.inputs import InputSize

__all__ = ["Frontier", "FrontierPoint", "frontier"]

OURS, REDUCED, UNIFORM = "optimize", "BALF-like", "uniform"
_BETWEEN = (0.1, 0.95)


@dataclass(frozen=True)
class FrontierPoint:
    """A model within one budget."""

    choice: str
    """``optimize``; ``BALF-like``, reduced rank of every layer by error alone; ``uniform``, one share of
    its MACs for each layer."""
    asked: float
    """Share of the resource asked for."""
    reached: float
    macs: float
    """Share of the whole model's MACs."""
    params: float
    moved: Moved
    plan: Plan

    @property
    def error(self) -> float:
        """||new - old|| / ||old|| of the outputs on held-out inputs."""
        return self.moved.error

    @property
    def agreement(self) -> float | None:
        """Share of held-out outputs that keep their class."""
        return self.moved.agreement


@dataclass(frozen=True)
class Frontier(Result, Sequence[FrontierPoint]):
    """Points of error against cost; ``print`` it, or draw it by `archcost.plot.frontier`."""

    model_name: str
    resource: str
    points: tuple[FrontierPoint, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, at: Any) -> Any:
        return self.points[at]

    def document(self, asked: Asked) -> Document:
        """The schema of ``archcost.frontier/1``: the fields by their names, a record for each point."""
        asked.without_depth("a frontier")
        rows = ordered(self.points, _COLUMNS, asked, "reached")
        table = Table("points", _COLUMNS, lambda: rows)
        return Document(
            schema="archcost.frontier/1",
            headings=[(visible(self.model_name), f"error against {self.resource}")],
            tables=[table],
            shown=[table],
            record=lambda: {
                "model": self.model_name,
                "resource": self.resource,
                "notes": self.notes,
                "points": [{c.name: c.get(one) for c in table.for_data(asked)} for one in rows],
            },
            lines=[self._answer()],
            notes=lambda grids: [("Note", visible(note)) for note in self.notes],
            page=lambda: Page(facts=[Fact("Points", str(len(self.points)))], pictures=self._pictures()),
        )

    def _pictures(self) -> list[Picture]:
        """The error along the budgets, a measure for each way to choose."""
        budgets = sorted({one.asked for one in self.points}, reverse=True)
        found = {(one.choice, one.asked): 100 * one.error for one in self.points}
        drawn = Along(
            title=f"How far do the outputs move as the {self.resource} shrink?",
            about="||new - old|| / ||old|| of held-out outputs in percent at each budget, the largest first; "
            "another way to choose is a button away.",
            items=[f"{asked:.3g} of the {self.resource}" for asked in budgets],
            measures=[
                Measure(choice, "%", [found.get((choice, asked)) for asked in budgets])
                for choice in dict.fromkeys(one.choice for one in self.points)
            ],
        )
        return [drawn] if self.points else []

    def _answer(self) -> str:
        ours = [one for one in self.points if one.choice == OURS]
        if not ours:
            return "no point can be reached"
        least = min(ours, key=lambda one: one.reached)
        best = [one for one in ours if one.agreement is None or one.agreement >= 0.99]
        text = f"From {max(one.reached for one in ours):.3g} to {least.reached:.3g} of the {self.resource}"
        if best and best[0].agreement is not None:
            text += f"; {min(one.reached for one in best):.3g} with 99 % of the outputs kept"
        return text


def frontier(
    model: nn.Module,
    inputs: Inputs = None,
    *,
    batches: Batches,
    resource: Literal["macs", "params", "memory", "latency"] = "macs",
    points: int | Iterable[float] = 10,
    rivals: bool = True,
    trials: int = 2,
    refit: bool = True,
    merge: bool = True,
    exclude: Iterable[str] = (),
    rules: Sequence[str] | None = None,
    hooks: Hooks = "refuse",
    random_weights: bool = False,
    memory: int = CEILING,
    input_size: InputSize | None = None,
    progress: bool | None = None,
) -> Frontier:
    """The error of `archcost.optimize` for a row of budgets, and that of simpler choices beside it.

    Spectra and sensitivities are computed once. Every point is carried out, refitted and compared on
    held-out inputs; its `Plan` is part of it. The frontier is monotone: a point that a smaller budget beats
    is that smaller budget's.

    Args:
        batches: unlabelled inputs, as for `archcost.optimize`; needed, as errors are measured.
        resource: what the budgets limit.
        points: shares of the whole model, or their number, evenly from 0.95 to the least reachable.
        rivals: the same budgets by BALF-like and by uniform choices, refitted alike.
        trials: the most selections carried out for a point.
        merge: as for `archcost.optimize`.

    Raises:
        InputError, ModelError, RewriteError: as `archcost.optimize`.
    """
    task = task_of(
        model, inputs, batches, hooks, random_weights, input_size, exclude, rules, memory, progress, merge
    )
    if task.data is None:
        raise InputError("frontier: errors are measured on held-out inputs: give batches")
    task.prepare()
    planned = task.planned(resource == "latency")
    making = Making(task, planned, None, refit, trials)
    found: list[FrontierPoint] = []
    notes: list[str] = []
    for share in _shares(points, planned.given[resource], making, resource):
        limits = planned.limits(Budget.of({resource: share}))
        ways: dict[str, Callable[[], Carried]] = {OURS: lambda: making.within(limits)[0]}  # noqa: B023

        def rival(choose: Callable[[Choosing], Selection]) -> Callable[[], Carried]:
            return lambda: task.carry_out(choose(making.choosing(limits, making.planned)), None, refit)  # noqa: B023

        if rivals:
            ways |= {REDUCED: rival(_reduced), UNIFORM: rival(uniform)}
        for choice, make in ways.items():
            try:
                made = make()
            except RewriteError as error:
                notes.append(f"{choice} at {share:.3g}: {error}")
                continue
            found.append(_point(choice, share, resource, made, planned.given, plan_of(task, made)))
    return Frontier(task.analysis.name, resource, tuple(_monotone(found)), (*task.notes, *notes))


def _shares(given: int | Iterable[float], total: float, making: Making, resource: str) -> list[float]:
    if not isinstance(given, int):
        return sorted((float(one) for one in given), reverse=True)
    least = max(_BETWEEN[0], 1.02 * making.least(resource) / total if total else 0.0)
    step = (_BETWEEN[1] - least) / max(given - 1, 1)
    return [_BETWEEN[1] - step * at for at in range(given)]


def _point(choice: str, share: float, resource: str, made: Carried, totals: Any, plan: Plan) -> FrontierPoint:
    spends = made.selection.spends
    part = {name: spends[name] / totals[name] for name in spends if totals[name]}
    assert made.trial.moved is not None
    return FrontierPoint(choice, share, part[resource], part["macs"], part["params"], made.trial.moved, plan)


def _monotone(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """Of our points, each replaced by a cheaper one that is no worse."""
    ours = [one for one in points if one.choice == OURS]
    made = []
    for one in points:
        if one.choice == OURS:
            better = [p for p in ours if p.reached <= one.reached and p.moved.score < one.moved.score]
            if better:
                best = min(better, key=lambda p: p.moved.score)
                one = FrontierPoint(
                    OURS, one.asked, best.reached, best.macs, best.params, best.moved, best.plan
                )
        made.append(one)
    return made


def _reduced(choosing: Choosing) -> Selection:
    """Ranks by the error of the outputs of each layer alone, under the whitened spectrum (BALF)."""
    return choosing.within(
        REDUCED,
        lambda one: one.error,
        lambda one: one.rule == "low_rank" or one.options.get("form") == "out",
    )


def uniform(choosing: Choosing) -> Selection:
    """One share of its own MACs for each layer, the candidate with the least error within it."""
    (name, limit), *_ = choosing.limits.most.items()
    low, high, best = 0.0, 1.0, None
    for _ in range(20):
        middle = (low + high) / 2
        picked: list[Candidate] = []
        for layer in choosing.layers:
            fits = [one for one in choosing.candidates.get(layer.name, ()) if one.macs <= middle * layer.macs]
            if fits:
                picked.append(min(fits, key=lambda one: one.error))
        spends = choosing.totals(picked)
        if spends[name] <= limit:
            best, low = Selection(UNIFORM, tuple(picked), spends), middle
        else:
            high = middle
    if best is None:
        raise RewriteError("the budget cannot be kept by one share for all layers")
    return best


def _text(value: float) -> str:
    return f"{value:.3g}"


_COLUMNS = (
    words("choice", "Choice", "The way to choose", keep=100),
    number("asked", "Asked", "Share of the resource asked for", _text, keep=60),
    number("reached", "Reached", "Share of the resource", _text, keep=95),
    number("macs", "MACs", "Share of the whole model's MACs", _text, keep=70),
    number("params", "Params", "Share of the whole model's parameters", _text, keep=65),
    number("agreement", "Agreement", "Share of held-out outputs that keep their class", _text, keep=90),
    number("error", "Error", "||new - old|| / ||old|| of the outputs", _text, keep=92),
    number("kl", "Divergence", "KL divergence, nats", _text, lambda one: one.moved.kl, keep=50),
)
