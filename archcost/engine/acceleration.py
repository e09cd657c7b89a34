"""Acceleration: what `accelerate` made of a model, step by step, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from archcost.latency.timing.clock import Ratio
from archcost.report.columns import milliseconds, number, words
from archcost.report.document import Asked, Document, Page, Table, ordered
from archcost.report.page.parts import Fact, Measure, Pairs
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.units import bytes_text, percent_text

__all__ = ["REST", "Acceleration", "StepTime"]

REST = "outside of steps"
"""The operator of the last row, with which the rows add up to the whole."""


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
        """The modules' names, what they have in common said once."""
        if not self.modules:
            return "(the rest)" if self.operator == REST else "-"
        first, *others = self.modules
        parent = first.rpartition(".")[0]
        short = [
            other.removeprefix(f"{parent}.") if parent and other.startswith(f"{parent}.") else other
            for other in others
        ]
        return " + ".join([first or "(the model)", *(one or "(the model)" for one in short)])


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
    """Those whose times the store had."""

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
        steps = Table("steps", _COLUMNS, lambda: rows, _SHOWN)
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return Document(
            schema="archcost.acceleration/2",
            headings=[(visible(self.model_name), f"{threads}, float32, batch {self.batch}")],
            tables=[steps],
            shown=[steps] * bool(self.steps),
            record=lambda: self._record(asked, steps),
            lines=self._summary(),
            notes=lambda grids: [
                ("Device", visible(self.device)),
                *(("Note", visible(note)) for note in self.notes),
            ],
            page=self._page,
        )

    def _page(self) -> Page:
        times = [one for one in self.steps if one.as_is_ms is not None and one.ms is not None]
        found = []
        if self.ratio is not None and self.original_ms is not None and self.accelerated_ms is not None:
            ms = f"{self.original_ms:.3g} ms before, {self.accelerated_ms:.3g} ms now, the whole model"
            found.append(Fact("Measured", f"{self.ratio.median:.2f}x as fast", ms))
        drawn = Pairs(
            title="Which layers became faster?",
            about="Times inside of the whole model; the largest change first.",
            sides=("as the model has them", "as steps of the program"),
            names=[visible(one.name) for one in times],
            remarks=[f"{visible(one.operator)}, {visible(one.kernel)}" for one in times],
            before=[Measure("Time", "ms", [one.as_is_ms or 0.0 for one in times])],
            after=[Measure("Time", "ms", [one.ms or 0.0 for one in times])],
        )
        return Page(facts=found, pictures=[drawn] * bool(times))

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
            f"{self.ratio.median:.2f}x (spread {self.ratio.spread:.2f}, {self.ratio.pairs} pairs, "
            f"{self.dropped} dropped): {self.original_ms:.2f} ms before, {self.accelerated_ms:.2f} ms now"
        )


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
