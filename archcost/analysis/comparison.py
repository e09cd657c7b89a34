"""Two Analyses side by side: compare, and the Comparison it returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from rich.text import Text
    from torch import nn

    from archcost.report.frames import Path

__all__ = ["Comparison", "compare"]


def compare(
    model_a: nn.Module | str | Analysis,
    model_b: nn.Module | str | Analysis,
    inputs: Any = None,
    *,
    inputs_b: Any = None,
    input_size: Any = None,
    names: tuple[str, str] | None = None,
    dtype: Any = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Two models side by side on the same inputs, aligned by module name.

    Args:
        model_a: a module, a SPEC, or an Analysis made before, which is taken as it is.
        model_b: the same.
        inputs: for both, as in `analyze`.
        inputs_b: for the second alone, where it takes others.
        input_size: for both; not for the second where it has ``inputs_b``.
        names: what to call the two in reports.
        dtype: as in `analyze`; so are ``device`` and ``progress``.

    Raises:
        InputError: inputs that do not fit, or that nobody takes, because both are Analyses.
    """
    sides = []
    made = isinstance(model_a, Analysis) and isinstance(model_b, Analysis)
    for model, own in ((model_a, None), (model_b, inputs_b)):
        given = inputs if own is None else own
        more = {"input_size": input_size if own is None else None, "dtype": dtype, "device": device}
        if isinstance(model, Analysis) and not made:  # what is for both is the other's
            given, more = own, {}
        sides.append(analysis_of("compare", model, given, progress=progress, **more))
    if names is not None:
        if isinstance(names, str) or len(names) != 2:
            raise SpecError(f"names is {names!r}; it takes two, one for each model")
        sides = [replace(side, name=str(name)) for side, name in zip(sides, names, strict=True)]
    return Comparison(*sides)


@dataclass(frozen=True)
class Comparison:
    """Two Analyses side by side: ``print`` it, or take it as pandas, markdown, CSV, JSON or HTML."""

    a: Analysis
    b: Analysis

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the two together, in words."""
        a, b = self.a.input_text, self.b.input_text
        return () if a == b else (f"the inputs differ: a has {a}, b has {b}",)

    def __repr__(self) -> str:
        return f"<Comparison of {self.a!r} with {self.b!r}>"

    def __str__(self) -> str:
        from archcost.report.comparison import printed

        return printed(self)

    def __rich__(self) -> Text:
        from rich.text import Text

        return Text(self.to_text())

    def _repr_html_(self) -> str:
        return self.to_html()

    def table(
        self,
        depth: int | None = 2,
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
        width: int | None = None,
    ) -> None:
        """Print both totals, then the modules of both to ``depth``.

        ``columns`` are measures such as ``"macs"``; ``sort`` is a column of `to_pandas` such as
        ``"macs_ratio"``, the largest first, differences by their size.
        """
        from archcost.report.comparison import draw

        draw(self, depth=depth, sort=sort, columns=columns, top=top, width=width)

    def to_text(
        self,
        depth: int | None = 2,
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
        width: int | None = None,
    ) -> str:
        """The tables as plain text; the options of `table`, and uncut unless ``width`` is given."""
        from archcost.report.comparison import text_of

        return text_of(self, depth=depth, sort=sort, columns=columns, top=top, width=width)

    def to_pandas(
        self,
        depth: int | None = None,
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
    ) -> pd.DataFrame:
        """One row a module name; each measure as ``macs_a``, ``macs_b``, ``macs_difference``, ``macs_ratio``.

        ``only_in`` is ``"a"`` or ``"b"`` for a module that the other has not; it counts as nothing there
        in the difference, so that differences of layers add up.
        """
        from archcost.report.comparison import to_pandas

        return to_pandas(self, depth, sort, columns, top)

    def to_csv(
        self,
        path: Path | None = None,
        depth: int | None = None,
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
    ) -> str | None:
        """`to_pandas` as CSV, into a file or returned."""
        from archcost.report.comparison import to_csv

        return to_csv(self, path, depth, sort, columns, top)

    def to_markdown(
        self,
        depth: int | None = None,
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
    ) -> str:
        """A markdown table for people: a, b and their ratio."""
        from archcost.report.comparison import to_markdown

        return to_markdown(self, depth, sort, columns, top)

    def to_json(
        self, path: Path | None = None, indent: int | None = 2, depth: int | None = None
    ) -> str | None:
        """Strict JSON, into a file or returned; its schema is stated in `archcost.report.comparison`.

        Modules down to ``depth``; 0 is the two models alone, None everything.
        """
        from archcost.report.comparison import to_json

        return to_json(self, path, indent, depth)

    def to_html(self, depth: int | None = 2, columns: Iterable[str] | None = None) -> str:
        """Both tables as HTML that needs nothing else."""
        from archcost.report.comparison import to_html

        return to_html(self, depth=depth, columns=columns)
