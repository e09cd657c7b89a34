"""`zoo`, which counts the models of torchvision beside their published figures."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from archcost.analysis.analysis import analyze
from archcost.errors import SpecError
from archcost.models.building import near
from archcost.models.vision import Published, build_torchvision, names, published, task_of
from archcost.progress import Progress
from archcost.report.columns import Look, words
from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.result import Result
from archcost.report.units import count_text


@dataclass(frozen=True)
class ZooRow:
    """The counts of a torchvision model beside the figures that torchvision publishes."""

    name: str
    task: str
    input_text: str
    params: int
    published_params: int
    params_match: bool | None
    """Whether the parameters agree; None for a quantized model, whose normalisations are folded."""
    macs: int
    published_gmacs: float
    """Published MACs, in 10^9."""
    macs_match: bool | None
    """Whether the MACs agree; None for a detection model, whose MACs depend on the boxes it proposes."""
    notes: tuple[str, ...] = ()

    @property
    def matches(self) -> bool:
        """Whether no compared figure differs."""
        return self.params_match is not False and self.macs_match is not False


def _verdict(row: ZooRow) -> str:
    if not row.matches:
        wrong = ["parameters"] * (row.params_match is False) + ["MACs"] * (row.macs_match is False)
        return f"DIFFERS in {' and '.join(wrong)}"
    if row.macs_match is None:
        return "ok (MACs depend on the boxes)"
    if row.params_match is None:
        return "ok (normalisations folded)"
    return "ok"


_G: Look = {"unit": "G MACs", "dtype": "float64", "show": "{:.3f}".format, "keep": 8}
_PUBLISHED_G: Look = {**_G, "keep": 6}
_WHETHER: Look = {"dtype": "boolean", "missing": "-"}
_COLUMNS: tuple[Column[ZooRow], ...] = (
    words("name", "Model", "The name in torchvision", keep=9),
    words("task", "Task", "The task of the model, such as classification"),
    words(
        "input_text",
        "Input",
        "Shapes and dtypes of the inputs",
        show=lambda text: text.replace(" float32", ""),
    ),
    words("params", "Params", "Parameters counted", dtype="int64", show=count_text, keep=7),
    words("gmacs", "GMACs", "MACs counted, in 10^9", lambda row: row.macs / 1e9, **_G),
    words(
        "published_params",
        "Published params",
        "Parameters published by torchvision",
        dtype="int64",
        show=count_text,
    ),
    words("published_gmacs", "Published", "MACs published by torchvision, in 10^9", **_PUBLISHED_G),
    words("params_match", "Params match", "Whether parameters agree; empty if not comparable", **_WHETHER),
    words("macs_match", "MACs match", "Whether MACs agree; empty if not comparable", **_WHETHER),
    words("verdict", "", "Whether the counts agree with the published figures", _verdict, keep=10),
)


@dataclass(frozen=True)
class Zoo(Result, Sequence[ZooRow]):
    """The counts of torchvision models beside their published figures, a `ZooRow` for each model."""

    rows: tuple[ZooRow, ...]

    @overload
    def __getitem__(self, index: int) -> ZooRow: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ZooRow, ...]: ...

    def __getitem__(self, index: int | slice) -> ZooRow | tuple[ZooRow, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def document(self, asked: Asked) -> Document:
        """The contents to show; the JSON has a list ``models`` with every column by its name."""
        asked.without_depth("the zoo")
        shown = ("name", "input_text", "params", "gmacs", "published_gmacs", "verdict")
        table = Table("models", _COLUMNS, lambda: ordered(self.rows, _COLUMNS, asked, "gmacs"), shown)
        good = sum(row.matches for row in self.rows)
        wrong = ", ".join(row.name for row in self.rows if not row.matches)
        count = f"{len(self.rows)} model{'s' * (len(self.rows) != 1)}, {good} as published"
        return Document(
            "archcost.zoo/1", [(count + (f"; different: {wrong}" if wrong else ""), "")], [table], [table],
            lambda: {"models": [{c.name: c.get(row) for c in _COLUMNS} for row in self.rows]},
        )  # fmt: skip


def zoo(
    pattern: str = "*",
    *,
    tasks: tuple[str, ...] | None = None,
    every_weight: bool = False,
    progress: bool | None = None,
) -> Zoo:
    """Count the models of torchvision and compare the counts with the published figures.

    Args:
        pattern: a pattern of model names, such as ``"resnet*"``.
        tasks: some of classification, segmentation, video, optical_flow, quantization and detection; by
            default all.
        every_weight: take every published set of weights, at its input size, instead of the default one.
        progress: whether to draw a progress bar on stderr; by default on a terminal.

    Returns:
        A row for each model; ``print`` it for the table.

    Raises:
        SpecError: no model matches.
    """
    entries = zoo_entries(pattern, tasks=tasks, every_weight=every_weight)
    rows = []
    with Progress(len(entries), "counting the zoo", progress) as bar:
        for entry in entries:
            rows.append(count_entry(entry))
            bar.step(label=entry.name)
    return Zoo(tuple(rows))


def zoo_entries(
    pattern: str = "*", *, tasks: tuple[str, ...] | None = None, every_weight: bool = False
) -> list[Published]:
    """The models that `zoo` counts for the same arguments."""
    matching = fnmatch.filter(names(), pattern)
    if not matching:
        raise SpecError(f"zoo: no torchvision model matches {pattern!r}{near(pattern, names())}")
    rows = []
    for name in matching:
        if tasks is None or task_of(name) in tasks:
            rows += published(name) if every_weight else published(name)[:1]
    if not rows:
        raise SpecError(f"zoo: no model of task {' or '.join(tasks or ())} matches {pattern!r}")
    return rows


def count_entry(row: Published) -> ZooRow:
    """Build and count a model of the zoo, and compare the counts with the published figures."""
    loaded = build_torchvision(row)
    analysis = analyze(loaded.model, input_size=row.input_size, progress=False)
    total = analysis.total
    return ZooRow(
        name=row.name,
        task=row.task,
        input_text=analysis.input_text,
        params=total.params,
        published_params=row.params,
        params_match=None if row.task == "quantization" else total.params == row.params,
        macs=total.macs,
        published_gmacs=row.gmacs,
        macs_match=None if row.task == "detection" else round(total.macs / 1e9, 3) == row.gmacs,
        notes=analysis.notes,
    )
