"""Optimized: the model that `archcost.optimize` made, what it was chosen from, and what was traded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from archcost.analysis.analysis import Analysis
from archcost.analysis.comparison import Comparison
from archcost.analysis.footprint import Footprint
from archcost.analysis.reports.analysis import listings
from archcost.analysis.reports.compared import total_facts
from archcost.analysis.reports.notes import heading
from archcost.analysis.reports.pictures import costly
from archcost.errors import ModelError
from archcost.optimizing.pages import pictures_of
from archcost.optimizing.verify import Moved
from archcost.report.columns import number, words
from archcost.report.document import Asked, Document, Listing, Page, Table, ordered
from archcost.report.grid import Grid
from archcost.report.page.parts import THIS_FILE, Fact, Point
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.units import bytes_text, percent_text, si_text
from archcost.rewriting.plan.plan import Plan

if TYPE_CHECKING:
    from torch import nn

    from archcost.engine.acceleration import Acceleration
    from archcost.trace.call import Call

__all__ = ["WORDS", "Optimized", "Row", "Trial", "moved_text"]

_SHOWN = {"macs": si_text, "params": si_text, "memory": bytes_text}
WORDS = {
    **{"macs": "MACs", "params": "parameters", "memory": "weights", "latency": "time"},
    **{"flash": "flash", "sram": "SRAM"},
}
"""The costs that budgets limit, in words."""


def moved_text(moved: Moved) -> str:
    """How far outputs have moved, in words."""
    if moved.agreement is not None:
        return f"{percent_text(100 * moved.agreement)} % of the held-out outputs keep their class"
    return f"outputs moved by {moved.error:.2g} of their size"


@dataclass(frozen=True)
class Trial:
    """A selection that was carried out, and how far the outputs moved on the held-out inputs."""

    label: str
    """The model of the error that chose it."""
    layers: int
    """Number of layers exchanged."""
    raw: Moved | None
    """Before the refit; None without data."""
    moved: Moved | None
    """After it; None without data."""
    metric: float | None = None
    """The user's own, of ``evaluate``."""
    score: float = 0.0
    """What decides, smaller first: the divergence, or the squared error, over all inputs; minus the metric
    where there is one."""


@dataclass(frozen=True)
class Row:
    """A layer of the result: what it was, and what stands there now."""

    name: str
    shape: str
    rule: str | None
    options: str
    macs: int
    macs_ratio: float
    params_ratio: float
    error: float | None
    """Relative error of its output as the spectrum predicts it; None for a layer that stays."""
    refitted: float | None
    """That of its output in the new model after the refit, on held-out positions; None: not refitted."""


@dataclass(frozen=True, eq=False)
class Optimized(Result):
    """The result of `archcost.optimize`; ``print`` it, or take it as pandas, markdown, CSV, JSON or HTML."""

    model: nn.Module
    """The new model, a copy; the old one is unchanged."""
    plan: Plan
    before: Analysis
    after: Analysis
    asked: Mapping[str, float]
    """The budget, as shares of the whole model."""
    reached: Mapping[str, float]
    """What was reached, as shares of the whole model."""
    moved: Moved | None
    """How far the outputs moved on the held-out inputs; None without data."""
    trials: tuple[Trial, ...]
    """Every selection that was carried out; the first is the one kept."""
    rows: tuple[Row, ...]
    inputs: Call
    acceleration: Acceleration | None = None
    """What `archcost.accelerate` made of the new model; None where it was not asked for."""
    metric: tuple[float, float] | None = None
    """The user's own metric of the old and the new model."""
    footprints: tuple[Footprint, Footprint] | None = None
    """Flash and SRAM of the old and the new model, where the budget limits them."""
    seconds: Mapping[str, float] | None = None
    """Wall-clock seconds of each stage."""
    notes: tuple[str, ...] = ()

    SAVED = (
        *("plan", "before", "after", "asked", "reached", "moved", "trials", "rows", "acceleration", "metric"),
        *("footprints", "seconds", "notes"),
    )

    @classmethod
    def restored(cls, **held: object) -> Optimized:
        """A result from the attributes in a file (`archcost.report.saving`)."""
        found = object.__new__(cls)
        vars(found).update(held)
        return found

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Explain which attributes a result read from a file has not."""
            if name in ("model", "inputs"):
                raise ModelError(
                    f"a saved Optimized has no {name}: load or build the old model again, and "
                    f"plan.apply(model, weights=False) makes the layers for the new state dict"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @cached_property
    def comparison(self) -> Comparison:
        """Every cost of the old and the new model, module by module."""
        return Comparison(self.before, self.after)

    def __repr__(self) -> str:
        return f"<Optimized {self.before.name}: {self._answer()}>"

    def _answer(self) -> str:
        sizes = [
            f"{self.reached[name]:.3g} of the {WORDS[name]}" for name in self.asked if name in self.reached
        ]
        return f"{', '.join(sizes)}: {self._kept()}"

    def _kept(self) -> str:
        count, blocks = len(self.plan.proposals), len(self.plan.after or ())
        if not count and not blocks:
            return "no layer exchanged"
        layers = f"{count or 'no'} layer{'s' * (count > 1)} exchanged"
        if blocks:
            layers = f"{blocks} block{'s' * (blocks > 1)} merged, {layers}"
        if self.moved is None:
            return f"{layers}; outputs not compared, as there was no data"
        return f"{moved_text(self.moved)}, {layers}"

    def document(self, asked: Asked) -> Document:
        """The schema of ``archcost.optimized/1``: the fields by their names."""
        asked.without_depth("a table of layers")
        rows = ordered(self.rows, _COLUMNS, asked, "macs")
        data = Table("layers", _COLUMNS, lambda: rows, _SEEN)
        trials = Table("trials", _TRIALS, lambda: self.trials)
        name, rest = heading(self.before)
        return Document(
            schema="archcost.optimized/1",
            headings=[(f"{name}, optimized", rest)],
            tables=[data, trials],
            shown=[self._totals(), *[data] * bool(rows), *[trials] * (len(self.trials) > 1)],
            record=lambda: self._record(asked, data),
            lines=self._lines(),
            notes=self._said,
            page=lambda: self._page([Listing(data, _SEEN), *[Listing(trials)] * (len(self.trials) > 1)]),
        )

    def _lines(self) -> list[str]:
        answer = self._answer()
        lines = [answer[0].upper() + answer[1:]]
        over = self._over()
        asked = ", ".join(f"{name} {self.asked[name]:.3g}" for name in self.asked)
        lines.append(
            f"asked for: {asked}, shares of the whole model" + f"; not kept: {', '.join(over)}" * bool(over)
        )
        if self.moved is not None:
            moved = self.moved
            kl = (
                ""
                if moved.kl is None
                else f", divergence {moved.kl:.2g} nats over {moved.positions:,} positions: where trained "
                f"networks diverged as much, {moved.meaning} of other inputs kept their class"
            )
            lines.append(f"||new - old|| / ||old|| of the outputs is {moved.error:.2g}{kl}")
        if self.footprints is not None:
            lines += self.footprints[1].sentences()
        if self.metric is not None:
            lines.append(f"your metric: {self.metric[0]:.6g} before, {self.metric[1]:.6g} now")
        if self.acceleration is not None:
            lines.append(f"accelerated: {self.acceleration._verdict()}")
        return lines

    def _over(self) -> list[str]:
        """The limits that are not kept."""
        return [name for name in self.asked if self.reached.get(name, 0.0) > self.asked[name] * 1.001]

    def _totals(self) -> Table:
        lines = {}
        found = [
            (name, show, self._total(self.before, name), self._total(self.after, name))
            for name, show in _SHOWN.items()
        ]
        if self.footprints is not None:
            old, new = self.footprints
            found += [("flash", bytes_text, old.flash, new.flash), ("sram", bytes_text, old.sram, new.sram)]
        for name, show, before, after in found:
            share = f"{after / before:.3g}x" if before else "-"
            asked = f"{self.asked[name]:.3g}x" if name in self.asked else ""
            lines[WORDS[name]] = (show(before), show(after), share, asked)
        if "latency" in self.reached:
            asked = f"{self.asked['latency']:.3g}x" if "latency" in self.asked else ""
            lines["time"] = ("", "", f"{self.reached['latency']:.3g}x", asked)
        return Table.of_texts("totals", "Total", {"Before": 4, "After": 3, "x": 2, "Asked": 1}, lines)

    @staticmethod
    def _total(analysis: Analysis, name: str) -> int:
        total = analysis.total
        return {
            "macs": total.macs,
            "params": total.params,
            "memory": total.param_bytes + total.buffer_bytes,
        }[name]

    def _said(self, grids: Sequence[Grid]) -> list[tuple[str, str]]:
        spent = self.seconds or {}
        took = ", ".join(f"{name} {value:.1f} s" for name, value in spent.items() if value >= 0.05)
        notes = [("Note", visible(note)) for note in self.notes]
        if took:
            notes.append(("Time", took))
        notes.append(
            (
                "Errors",
                "of a layer's output, relative: predicted from its spectrum, and measured after the refit",
            )
        )
        return notes

    def _page(self, tables: Sequence[Listing]) -> Page:
        over = self._over()
        tree, *_ = listings(self.after)
        return Page(
            warnings=[f"Not kept: {', '.join(WORDS.get(name, name) for name in over)}"] * bool(over),
            facts=self._facts(),
            costly=costly(self.after),
            costly_title="What costs most now",
            advice=self._advice(),
            pictures=pictures_of(
                self.before,
                self.after,
                {one.name: ", ".join(filter(None, (one.rule, one.options))) for one in self.rows if one.rule},
                {one.name: (one.error, one.refitted) for one in self.rows},
            ),
            lines=(),  # they are among the facts
            tables=[*tables, tree],
        )

    def _facts(self) -> list[Fact]:
        asked = ", ".join(f"{WORDS.get(name, name)} {share:.3g}" for name, share in self.asked.items())
        reached = [
            f"{self.reached[name]:.3g} of the {WORDS[name]}" for name in self.asked if name in self.reached
        ]
        found = [Fact("Budget", ", ".join(reached) or "-", f"asked for: {asked}")]
        moved = self.moved
        if moved is not None:
            said = f"||new - old|| / ||old|| is {moved.error:.2g}"
            if moved.agreement is None:
                found.append(
                    Fact("Outputs", f"moved by {moved.error:.2g}", "||new - old|| / ||old||, held out")
                )
            else:
                kept = f"{percent_text(100 * moved.agreement)} % keep their class"
                said = f"of {moved.positions:,} held out; {said}"
                if moved.meaning is not None:
                    said += f"; where trained networks moved as far, {moved.meaning} of other inputs kept it"
                found.append(Fact("Outputs", kept, said))
        if self.metric is not None:
            found.append(Fact("Your metric", " → ".join(f"{one:.4g}" for one in self.metric), "before → now"))
        if self.footprints is not None:
            old, new = self.footprints
            pairs = {"Flash": (old.flash, new.flash), "SRAM": (old.sram, new.sram)}
            found += [Fact(name, " → ".join(map(bytes_text, pair))) for name, pair in pairs.items()]
        if self.acceleration is not None:
            found.append(Fact("Accelerated", self.acceleration._verdict().partition(":")[0]))
        return [*found, *total_facts(self.before, self.after)]

    def _advice(self) -> list[Point]:
        found = []
        text = "its layers in a copy of your model; then load the state dict that was saved with it"
        if len(self.plan):
            command = f"archcost.load_result({THIS_FILE}).plan.apply(model, weights=False)"
            found.append(Point("To build it again", text, command=command))
        errors = {one.name: one.refitted if one.refitted is not None else one.error for one in self.rows}
        known = {name: error for name, error in errors.items() if error is not None}
        if known:
            worst = max(known, key=lambda name: known[name])
            text = f"the output of {worst}, by {known[worst]:.2g} of its size; exclude=[{worst!r}] keeps it"
            found.append(Point("What moved most", visible(text)))
        if self.moved is not None and self.metric is None:
            text = "held-out outputs that keep their class are a hint: your labels decide"
            found.append(Point("Before you use it", text))
        return found

    def _record(self, asked: Asked, table: Table) -> dict[str, Any]:
        from archcost.rewriting.plan.plan_json import plan_record

        columns = table.for_data(asked)
        return {
            "model": self.before.name,
            "asked": dict(self.asked),
            "reached": dict(self.reached),
            "moved": None if self.moved is None else asdict(self.moved),
            "metric": self.metric,
            "footprints": [{"flash": one.flash, "sram": one.sram} for one in self.footprints or ()],
            "trials": [asdict(one) for one in self.trials],
            "layers": [{column.name: column.get(row) for column in columns} for row in table.rows()],
            "seconds": dict(self.seconds or {}),
            "notes": self.notes,
            "plan": plan_record(self.plan),
        }


def _share(value: float) -> str:
    return f"{value:.3g}"


_COLUMNS = (
    words("name", "Layer", "The layer's name", keep=100),
    words("shape", "Was", "The layer as it was", keep=60),
    words("rule", "Rule", "The rule that made the new layers; none where it stays", keep=90),
    words("options", "Options", "The options of the rule", keep=70),
    number("macs", "MACs", "Of the new layers, all calls", si_text, dtype="Int64", keep=50),
    number("macs_ratio", "x", "New MACs over old", _share, keep=95),
    number("params_ratio", "Params x", "New parameters over old", _share, keep=45),
    number("error", "Error", "Relative error of its output, predicted", _share, keep=80),
    number("refitted", "after refit", "Relative error of its output in the new model", _share, keep=85),
)
_SEEN = ("name", "shape", "rule", "options", "macs", "macs_ratio", "params_ratio", "error", "refitted")


def _of(trial: Trial, part: str, what: str) -> float | None:
    moved = getattr(trial, part)
    return None if moved is None else getattr(moved, what)


_TRIALS = (
    words("label", "Selection by", "The model of the error that chose it", keep=100),
    number("layers", "Layers", "Number of layers exchanged", str, dtype="Int64", keep=60),
    number(
        "agreement",
        "Agreement",
        "Share of held-out outputs that keep their class",
        _share,
        lambda one: _of(one, "moved", "agreement"),
        keep=90,
    ),
    number("kl", "Divergence", "KL divergence, nats", _share, lambda one: _of(one, "moved", "kl"), keep=70),
    number(
        "output_error",
        "Error",
        "Relative error of the outputs",
        _share,
        lambda one: _of(one, "moved", "error"),
        keep=80,
    ),
    number(
        "raw_error",
        "before refit",
        "Relative error before the refit",
        _share,
        lambda one: _of(one, "raw", "error"),
        keep=65,
    ),
    number("metric", "Metric", "The user's own metric", _share, keep=75),
)
