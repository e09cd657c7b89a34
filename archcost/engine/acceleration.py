"""Acceleration: what `accelerate` made of a model, step by step, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import takewhile
from typing import Any

from archcost.latency.timing.clock import Ratio
from archcost.report.columns import milliseconds, number, words
from archcost.report.document import Asked, Column, Document, Listing, Page, Table, ordered
from archcost.report.grid import Entry
from archcost.report.page.parts import Fact, Measure, Pairs, Point
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.units import bytes_text, ms_text, percent_text

__all__ = ["REST", "Acceleration", "StepTime"]

REST = "between the steps"
"""The operator of the last row, with which the rows add up to the whole."""

# Names of modules in a row, and rows of the first screen.
_MOST_NAMES, _MOST = 3, 20
_MOST_COSTLY = 3
_HAVING = "the same in Python, with your weights and inputs; call it as you call the model"
# Share of the whole by which the steps together may exceed it.
_BUSY = 0.05


@dataclass(frozen=True)
class StepTime:
    """A step of the program, and the modules whose work it does."""

    modules: tuple[str, ...]
    """As in ``named_modules()``; those whose own time is in ``as_is_ms``."""
    operator: str
    """In the field's words."""
    kernel: str
    """The kernel's name; ``PyTorch`` for a call back into it."""
    shape: tuple[int, ...]
    """Of its output."""
    as_is_ms: float | None
    """Own time of these modules in the original, inside of forward passes; None where it was not measured."""
    ms: float | None
    """Time inside of the program."""
    share: float | None
    """Percent of the accelerated model's time."""

    @property
    def name(self) -> str:
        """The modules' names, what they have in common said once; of many what they lie in."""
        if not self.modules:
            return "(the rest)" if self.operator == REST else "-"
        if len(self.modules) == 1:
            return self.modules[0] or "(the model)"
        parts = [one.split(".") if one else [] for one in self.modules]
        alike = [same[0] for same in takewhile(lambda same: len(set(same)) == 1, zip(*parts, strict=False))]
        within = ".".join(alike)
        short = [".".join(one[len(alike) :]) or "its own operations" for one in parts]
        if not within:
            names = [one or "(the model)" for one in self.modules]
            few = names if len(names) <= _MOST_NAMES else [names[0], f"{len(names) - 1} more modules"]
            return " + ".join(few)
        if len(parts) > _MOST_NAMES:
            return f"{within} ({len(parts)} modules)"
        if all(len(one) == len(alike) + 1 for one in parts):
            return f"{within}.{' + '.join(short)}"
        return f"{within} ({', '.join(short)})"


@dataclass(frozen=True)
class Acceleration(Result):
    """The program that `archcost.accelerate` made of a model, and its times; in all formats of a `Result`."""

    model_name: str
    changed: bool
    reason: str | None
    """Why the model's own modules run; None where the program does."""
    steps: tuple[StepTime, ...]
    ratio: Ratio | None
    """How many times as long the original takes, end to end, interleaved; None where it was not measured."""
    original_ms: float | None
    accelerated_ms: float | None
    samples: int
    dropped: int
    """Samples left out because they were interrupted."""
    error: float | None
    """max |y - exact| / max |exact| over the model's outputs, against ``reference``."""
    original_error: float | None
    """The original model's own."""
    reference: str
    tolerance: float
    arena_bytes: int | None
    """Working memory, for each thread that calls the model."""
    weights_bytes: int | None
    """Packed weights, beside the model's own."""
    ready_s: float
    """Seconds until all of this was known."""
    device: str
    threads: int
    batch: int | None
    torch: str
    notes: tuple[str, ...] = ()
    variants_timed: int = 0
    """Ways to compute layers that were timed, each shape once."""
    variants_read: int = 0
    """The number of variants whose times the store had."""

    @property
    def pytorch_share(self) -> float | None:
        """Percent of the accelerated model's time in calls of PyTorch; None where it was not measured."""
        shares = [one.share for one in self.steps if one.kernel == "PyTorch" and one.operator != REST]
        known = any(one.share is not None for one in self.steps)
        return sum(share or 0.0 for share in shares) if known else None

    def document(self, asked: Asked) -> Document:
        """The schema of ``archcost.acceleration/2``: the fields by their names, of each step as well."""
        asked.without_depth("an acceleration")
        rows = ordered(self.steps, _COLUMNS, asked, "ms")
        steps = Table("steps", _COLUMNS, lambda: rows, _SHOWN, lines=partial(_lines, rows, None))
        seen, more = steps, len(rows) > _MOST + 2 and not (asked.full or asked.is_flat or asked.by)
        if more:
            seen = replace(steps, name="slowest", lines=partial(_lines, rows, _MOST))
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return Document(
            schema="archcost.acceleration/2",
            warning=("Beware", visible("; ".join(warns))) if (warns := self._notes(True)) else None,
            headings=[(visible(self.model_name), f"{threads}, float32, batch {self.batch}")],
            tables=[steps],
            shown=[seen] * bool(self.steps),
            details=[steps] * more,
            folded="Every step" * more,
            more="archcost accelerate -v, or full=True, shows every step" * more,
            record=lambda: self._record(asked, steps),
            lines=self._summary(),
            notes=lambda grids: [
                ("Device", visible(self.device)),
                *(("Note", visible(note)) for note in (*self._notes(False), *self._too_slow())),
            ],
            page=lambda: self._page(steps),
        )

    def _notes(self, warnings: bool) -> list[str]:
        """The notes on what the error is worth, where there is one, or the others."""
        if warnings and self.error is None:
            return []
        return [note for note in self.notes if note.startswith(_WARNS) == warnings]

    def _too_slow(self) -> list[str]:
        """A note where the steps, timed one by one, took longer than the whole, which is timed at once."""
        beyond = sum(one.ms or 0.0 for one in self.steps if one.operator == REST)
        if self.accelerated_ms is None or beyond > -_BUSY * self.accelerated_ms:
            return []
        return ["the steps took longer one by one than all together: the machine was busier meanwhile"]

    def _page(self, steps: Table) -> Page:
        times = [one for one in self.steps if one.as_is_ms is not None and one.ms is not None]
        found = []
        if self.ratio is not None and self.original_ms is not None and self.accelerated_ms is not None:
            ms = f"{self.original_ms:.2f} ms before, {self.accelerated_ms:.2f} ms now, medians; the ratio is "
            found.append(Fact("The whole model", f"{self.ratio.median:.2f}x as fast", f"{ms}{self._pairs()}"))
        if self.error is not None and self.original_error is not None:
            before = f"before {self.original_error:.1e}, allowed {self.tolerance:.0e}"
            found.append(Fact("Error", f"{self.error:.1e}", f"against the {self.reference}; {before}"))
        if self.changed and self.arena_bytes is not None and self.weights_bytes is not None:
            packed = f"of packed weights, and {bytes_text(self.arena_bytes)} for each thread that calls it"
            found.append(Fact("Memory", bytes_text(self.weights_bytes), packed))
            found.append(Fact("Ready in", f"{self.ready_s:.1f} s", "to read, choose, check and time it"))
        if self.pytorch_share:
            found.append(Fact("Left to PyTorch", f"{percent_text(self.pytorch_share)} %", self._calls()))
        drawn = Pairs(
            title="Which layers became faster?",
            about="Times inside of the whole model, for the modules whose work a step does; the largest "
            "change first.",
            sides=("as the model has them", "as steps of the program"),
            names=[visible(one.name) for one in times],
            remarks=[visible(", ".join(dict.fromkeys((one.operator, one.kernel)))) for one in times],
            before=[Measure("Time", "ms", [one.as_is_ms or 0.0 for one in times])],
            after=[Measure("Time", "ms", [one.ms or 0.0 for one in times])],
        )
        advice = [Point("To have it", _HAVING, command="archcost.accelerate(model, inputs)")] * self.changed
        lines = [] if self.changed else [self._verdict()]
        return Page(
            list(map(visible, self._notes(True))),
            facts=found,
            costly=self._slowest(),
            costly_title="What takes most time now",
            advice=advice,
            lines=lines,
            pictures=[drawn] * bool(times),
            tables=[Listing(steps, _ON_PAGE)],
        )

    def _slowest(self) -> list[Point]:
        """The steps that take most time in the program."""
        known = [(one.ms, one.share, one) for one in self.steps if one.ms and one.share]
        found = []
        for ms, share, one in sorted(known, key=lambda each: -each[0])[:_MOST_COSTLY]:
            by = f", by {one.kernel}" * (one.kernel not in ("-", one.operator))
            text = f"{ms_text(ms)} ms, {percent_text(share)} % of all: {one.operator}{by}"
            found.append(Point(visible(one.name), visible(text), min(share / 100, 1)))
        return found

    def _record(self, asked: Asked, steps: Table) -> dict[str, Any]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["ratio"] = None if self.ratio is None else asdict(self.ratio)
        if asked.columns is None:
            return {**values, "steps": [asdict(step) for step in steps.rows()]}
        columns = steps.for_data(asked)
        return {**values, "steps": [{c.name: c.get(step) for c in columns} for step in steps.rows()]}

    def _summary(self) -> list[str]:
        lines = [self._verdict()]
        if self.error is not None and self.original_error is not None:
            lines.append(
                f"error {self.error:.1e} against the {self.reference} (before: {self.original_error:.1e}, "
                f"allowed: {self.tolerance:.0e})"
            )
        if self.changed and self.arena_bytes is not None and self.weights_bytes is not None:
            lines.append(
                f"{bytes_text(self.arena_bytes)} of working memory for each thread that calls it, "
                f"{bytes_text(self.weights_bytes)} of packed weights; ready in {self.ready_s:.1f} s"
            )
        if self.variants_timed or self.variants_read:
            lines.append(
                f"{self.variants_timed} variants of layers timed, {self.variants_read} read from the store"
            )
        if self.pytorch_share:
            lines.append(
                f"{percent_text(self.pytorch_share)} % of the time in calls of PyTorch: {self._calls()}"
            )
        return lines

    def _calls(self) -> str:
        by_name: dict[str, float] = {}
        for one in self.steps:
            if one.kernel == "PyTorch" and one.share is not None and one.operator != REST:
                by_name[one.operator] = by_name.get(one.operator, 0.0) + one.share
        return ", ".join(sorted(by_name, key=lambda name: -by_name[name]))

    def _verdict(self) -> str:
        if not self.changed or self.ratio is None or self.original_ms is None or self.accelerated_ms is None:
            return f"left as it was: {self.reason}"
        return (
            f"{self.ratio.median:.2f}x as fast: {self.original_ms:.2f} ms before, {self.accelerated_ms:.2f} "
            f"ms now (medians; the ratio is {self._pairs()})"
        )

    def _pairs(self) -> str:
        """How the ratio was found, since it is not the quotient of the two medians."""
        assert self.ratio is not None
        pairs = "their quotient"
        if self.ratio.pairs:
            pairs = "of a single pair" if self.ratio.pairs == 1 else f"the median of {self.ratio.pairs} pairs"
        spread = f", spread {self.ratio.spread:.2f}" if self.ratio.pairs > 1 else ""
        return f"{pairs}{spread}" + f", {self.dropped} interrupted left out" * bool(self.dropped)


def _lines(steps: Sequence[StepTime], most: int | None, columns: Sequence[Column[StepTime]]) -> list[Entry]:
    """The steps, a name only in the first of several rows; of many those that take most, in order."""
    slowest = sorted(range(len(steps)), key=lambda at: -(steps[at].ms or 0.0))[:most]
    kept = [one for at, one in enumerate(steps) if at in set(slowest) or one.operator == REST]
    entries, before = [], ""
    for one in kept:
        entries.append(Entry(((visible(one.name) if one.name != before else "", ""),), _cells(one, columns)))
        before = one.name
    if left := [one for one in steps if one not in kept]:
        known = (sum(value for one in left if (value := getattr(one, name)) is not None) for name in _SUMS)
        sums = dict(zip(_SUMS, known, strict=True))
        cells = tuple(column.show(sums[column.name]) if column.name in sums else "" for column in columns)
        entries.insert(-1, Entry(((f"({len(left)} other steps)", "dim"),), cells))
    return entries


def _cells(one: StepTime, columns: Sequence[Column[StepTime]]) -> tuple[str, ...]:
    return tuple(column.text(one) for column in columns)


_ON_PAGE = ("operator", "as_is_ms", "ms", "share", "kernel", "shape")
_SUMS = ("as_is_ms", "ms", "share")
_WARNS = ("random weights", "its outputs are all")


_COLUMNS = (
    words("name", "Modules", "The modules whose work it does", keep=100),
    words("operator", "Operator", "In the field's words", keep=90),
    words("kernel", "Kernel", "PyTorch for a call back into it", keep=85),
    words(
        "shape",
        "Output",
        "Shape of its output",
        show=lambda shape: "x".join(map(str, shape)) or "-",
        in_full=lambda shape: "x".join(map(str, shape)),
        dtype="object",
        keep=60,
    ),
    milliseconds("as_is_ms", "As is ms", "Own time of its modules in the original", keep=80),
    milliseconds("ms", "ms", "Inside of the program", keep=95),
    number("share", "Time %", "Of the accelerated model's time", percent_text, unit="%", keep=70),
)
_SHOWN = ("name", "operator", "kernel", "shape", "as_is_ms", "ms", "share")
