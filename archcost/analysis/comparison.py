"""Two Analyses side by side: compare, and the Comparison it returns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.analysis.reports.comparison import document_of
from archcost.errors import SpecError
from archcost.report.document import Asked, Document
from archcost.report.result import Result

if TYPE_CHECKING:
    import torch
    from torch import nn

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
class Comparison(Result):
    """Two Analyses side by side: ``print`` it, or take it as pandas, markdown, CSV, JSON or HTML.

    One row a module name; each measure as ``macs_a``, ``macs_b``, ``macs_difference``, ``macs_ratio``, and
    ``columns`` takes ``"macs"`` for all of them. ``only_in`` is ``"a"`` or ``"b"`` for a module that the
    other has not; it counts as nothing there in the difference, so that differences of layers add up. Sorted
    by a difference, the largest change comes first, whichever way it goes.
    """

    a: Analysis
    b: Analysis

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the two together, in words."""
        a, b = self.a.input_text, self.b.input_text
        return () if a == b else (f"the inputs differ: a has {a}, b has {b}",)

    def document(self, asked: Asked) -> Document:
        """The schema is stated in `archcost.analysis.reports.comparison`."""
        return document_of(self.a, self.b, self.notes, asked)

    def __repr__(self) -> str:
        return f"<Comparison of {self.a!r} with {self.b!r}>"
