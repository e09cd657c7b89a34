"""frontier: error against cost, a plan a point, beside simpler ways to choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from archcost.analysis.budget import Budget
from archcost.errors import InputError, RewriteError
from archcost.optimizing.candidates import Candidate
from archcost.optimizing.making import Making
from archcost.optimizing.optimize import Batches, task_of
from archcost.optimizing.optimized import WORDS, moved_text
from archcost.optimizing.outcome import plan_of
from archcost.optimizing.planning import Choosing, Selection
from archcost.optimizing.stages import Carried
from archcost.optimizing.statistics import CEILING
from archcost.optimizing.verify import Moved
from archcost.report.columns import number, words
from archcost.report.document import Asked, Document, Page, Table, ordered
from archcost.report.page.parts import Dots, Fact, Picture, Point
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
_KEPT = 0.99


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
            headings=[(visible(self.model_name), f"error against {self._words}")],
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
            page=self._page,
        )

    def _page(self) -> Page:
        text = "the model of a point, refitted; with another share that of another point"
        best = self._kept(_KEPT) or self._least(OURS)
        found = [
            Point(f"{one.reached:.3g} of the {self._words}", self._costs(one), 1 - one.reached)
            for one in self._worth()
        ]
        if best is not None:
            budget = f"archcost.Budget({self.resource}={best.asked:.3g})"
            command = f"archcost.optimize(model, budget={budget}, batches=batches)"
            found.append(Point("To have it", text, command=command))
        return Page(facts=self._facts(), advice=found, pictures=self._pictures(), lines=())

    @property
    def _words(self) -> str:
        return WORDS[self.resource]

    def _least(self, choice: str, agreement: float | None = None) -> FrontierPoint | None:
        """The cheapest point of a way to choose, that keeps so many of the outputs."""
        found = [
            one for one in self.points
            if one.choice == choice and (agreement is None or (one.agreement or 0.0) >= agreement)
        ]  # fmt: skip
        return min(found, key=lambda one: one.reached, default=None)

    def _kept(self, agreement: float) -> FrontierPoint | None:
        return self._least(OURS, agreement)

    def _worth(self) -> list[FrontierPoint]:
        """Our cheapest points that keep 99, 97 and 92 % of the outputs, and the cheapest of all."""
        found = [*map(self._kept, (_KEPT, 0.97, 0.92)), self._least(OURS)]
        known = {one.reached: one for one in found if one is not None}
        return sorted(known.values(), key=lambda one: one.reached)

    def _costs(self, one: FrontierPoint) -> str:
        shares = {"macs": one.macs, "params": one.params}
        others = [f"{share:.3g} of the {WORDS[n]}" for n, share in shares.items() if n != self.resource]
        return f"{moved_text(one.moved)}; {', '.join(others)}"

    def _facts(self) -> list[Fact]:
        ways = dict.fromkeys(one.choice for one in self.points)
        kept = {way: one for way in ways if (one := self._least(way, _KEPT)) is not None}
        found = []
        if OURS in kept:
            others = [
                f"{way} {kept[way].reached:.3g}" if way in kept else f"{way} nowhere"
                for way in ways
                if way != OURS
            ]
            text = f"{kept[OURS].reached:.3g} of the {self._words}"
            said = "held-out outputs keep their class" + f"; {', '.join(others)}" * bool(others)
            found.append(Fact("With 99 % kept", text, said))
        least = self._least(OURS)
        if least is not None:
            if kept.get(OURS) != least:
                text = f"{least.reached:.3g} of the {self._words}"
                found.append(Fact("The smallest", text, moved_text(least.moved)))
            at = {one.choice: one for one in self.points if one.asked == least.asked}
            others = [f"{way} {at[way].error:.2g}" for way in at if way != OURS]
            if others:
                said = f"||new - old|| / ||old||; {', '.join(others)}"
                found.append(Fact(f"Error at {least.asked:.3g}", f"{at.get(OURS, least).error:.2g}", said))
        return [*found, Fact("Points", str(len(self.points)), "a plan each")]

    def _pictures(self) -> list[Picture]:
        """The error over the share of the resource, a curve for each way to choose."""
        drawn = [one for one in self.points if 0 < one.error < inf and one.reached > 0]
        curves = Dots(
            title=f"How far do the outputs move as the {self._words} shrink?",
            about="||new - old|| / ||old|| of held-out outputs in percent, over the share that a model has "
            "left. Lower and further left is better.",
            names=[f"{one.reached:.3g} of the {self._words}" for one in drawn],
            groups=[one.choice for one in drawn],
            x=[one.reached for one in drawn],
            y=[100 * one.error for one in drawn],
            texts=[f"moved by {100 * one.error:.3g} %; {self._costs(one)}" for one in drawn],
            x_label=f"share of the {self._words}",
            y_label="error of the outputs, %",
            joined=True,
        )
        return [curves] * bool(drawn)

    def _answer(self) -> str:
        ours = [one for one in self.points if one.choice == OURS]
        if not ours:
            return "no point can be reached"
        least = min(ours, key=lambda one: one.reached)
        best = [one for one in ours if one.agreement is None or one.agreement >= 0.99]
        text = f"From {max(one.reached for one in ours):.3g} to {least.reached:.3g} of the {self._words}"
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
            fits = [
                one
                for one in choosing.candidates.get(layer.name, ())
                if one.macs <= middle * layer.macs and not one.others
            ]
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
