"""Steps: the stages of an algorithm on small arrays, as a result that prints every number and draws it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from archcost.errors import SpecError
from archcost.learn.stages import Numbers, Stage, texts
from archcost.report.columns import number, words
from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.result import Result
from archcost.report.units import count_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from archcost.report.values import Json

__all__ = ["Steps", "Value"]


class Value(NamedTuple):
    """A number of a stage, with its place."""

    stage: str
    array: str
    row: int
    column: int
    value: float
    imaginary: float | None


_COLUMNS: tuple[Column[Value], ...] = (
    words("stage", "Stage", "The stage of the algorithm"),
    words("array", "Array", "The matrix of the stage"),
    words("row", "Row", "Its row, from 0", dtype="int64", show=count_text),
    words("column", "Column", "Its column, from 0", dtype="int64", show=count_text),
    number("value", "Value", "The number, or its real part", "{:.6g}".format, dtype="float64"),
    number("imaginary", "Imaginary", "The imaginary part of a complex number", "{:.6g}".format),
)


@dataclass(frozen=True, eq=False)
class Steps(Result, Sequence[Stage]):
    """The stages of an algorithm, a `Stage` for each; ``print`` it for the numbers, `draw` it for a picture.

    Attributes:
        algorithm: its name.
        given: the shapes of input and kernel, and the geometry.
        stages: from the input to the output.
        products: the multiplications, beside those of the definition.
        output: the output, of the shape that ``torch.nn.functional.conv2d`` gives.
    """

    algorithm: str
    given: str
    stages: tuple[Stage, ...]
    products: str
    output: Tensor

    @overload
    def __getitem__(self, index: int) -> Stage: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Stage, ...]: ...

    def __getitem__(self, index: int | slice) -> Stage | tuple[Stage, ...]:
        return self.stages[index]

    def __len__(self) -> int:
        return len(self.stages)

    def document(self, asked: Asked) -> Document:
        """The contents to show; the JSON has a list ``stages`` of titles, texts and arrays."""
        asked.without_depth("an algorithm")
        table = Table("numbers", _COLUMNS, lambda: ordered(self._values(), _COLUMNS, asked, "value"))
        return Document(
            schema="archcost.steps/1",
            headings=[(self.algorithm, self.given)],
            lines=[self.products],
            tables=[table],
            shown=[one for at, stage in enumerate(self, 1) for one in _tables(at, stage)],
            record=self._record,
        )

    def draw(
        self, path: str | os.PathLike[str] | None = None, *, stages: Sequence[int] | None = None
    ) -> Figure:
        """Draw the stages below one another: a cell for each number, the darker the larger.

        Args:
            path: a .png, .svg or .pdf file to write.
            stages: indices of the stages to draw; by default all.

        Returns:
            The figure.

        Raises:
            ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
            SpecError: an unknown suffix, or there is no such stage.
        """
        from archcost.learn.drawing import draw

        wanted = range(len(self)) if stages is None else stages
        if wrong := [at for at in wanted if not -len(self) <= at < len(self)]:
            raise SpecError(f"draw: there is no stage {wrong[0]}; {self.algorithm} has {len(self)}, from 0")
        numbered = [(at % len(self) + 1, self[at]) for at in wanted]
        return draw(self.algorithm, (self.given, self.products), numbered, path)

    def _values(self) -> list[Value]:
        return list(self._every_value())

    def _every_value(self) -> Iterator[Value]:
        for stage in self.stages:
            for name, values in stage.panels:
                for (row, column), value in np.ndenumerate(values):
                    imaginary = float(value.imag) if np.iscomplexobj(values) else None
                    yield Value(stage.title, name, row, column, float(value.real), imaginary)

    def _record(self) -> dict[str, Json]:
        return {
            "algorithm": self.algorithm,
            "given": self.given,
            "products": self.products,
            "stages": [
                {
                    "title": stage.title,
                    "text": stage.text,
                    "arrays": {panel.name: _plain(panel.values) for panel in stage.panels},
                }
                for stage in self
            ],
        }


def _plain(values: Numbers) -> Json:
    """The numbers as nested lists, a complex one as its two parts."""
    parts = np.stack([values.real, values.imag], -1) if np.iscomplexobj(values) else values
    plain: Json = parts.tolist()
    return plain


def _tables(at: int, stage: Stage) -> Iterator[Table]:
    """A table for each matrix; the sentence of the stage stands above the first."""
    for place, (name, values) in enumerate(stage.panels):
        said = texts(values)
        heads = dict.fromkeys(map(str, range(values.shape[1])), 5.0)
        lines = {str(row): list(said[row]) for row in range(len(said))}
        table = Table.of_texts(f"{at} {name}", name, heads, lines)
        title = (f"{at}. {stage.title}", stage.text) if not place else None
        yield Table(table.name, table.columns, table.rows, title=title, label=name, is_summary=True)
