"""`compare`, which puts two models side by side, and the Comparison it returns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from archcost.analysis.analysis import Analysis, Wanted, analysis_of
from archcost.analysis.reports.comparison import document_of
from archcost.errors import SpecError
from archcost.report.document import Asked, Document
from archcost.report.result import Result

if TYPE_CHECKING:
    import torch
    from torch import nn
    from typing_extensions import Unpack

    from archcost.trace.inputs import DTypes, Inputs, InputSize

__all__ = ["Comparison", "compare", "inputs_differ", "two_sides"]


def compare(
    model_a: nn.Module | str | Analysis,
    model_b: nn.Module | str | Analysis,
    inputs: Inputs = None,
    *,
    inputs_b: Inputs = None,
    input_size: InputSize | None = None,
    names: tuple[str, str] | None = None,
    dtype: DTypes | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Compare the costs of two models, module by module; `diff` explains the change between two versions.

    Args:
        model_a: the first model: a module, a SPEC, or an Analysis, which is used as it is.
        model_b: the second model, in the same forms.
        inputs: the inputs of both, as in `analyze`.
        inputs_b: the inputs of the second model, where they differ.
        input_size: the input size of both, as in `analyze`; with ``inputs_b``, of the first only.
        names: names of the two models for reports.
        dtype: as in `analyze`.
        device: as in `analyze`.
        progress: as in `analyze`.

    Returns:
        The comparison, with modules aligned by their names.

    Raises:
        InputError: the inputs do not fit, or both models are Analyses, which have their inputs.
        SpecError: a SPEC names nothing that can be loaded, or ``names`` are not two.
    """
    wanted: Wanted = {"input_size": input_size, "dtype": dtype, "device": device}
    return Comparison(
        *two_sides("compare", (model_a, model_b), (inputs, inputs_b), names, progress, **wanted)
    )


def two_sides(
    what: str,
    models: tuple[nn.Module | str | Analysis, nn.Module | str | Analysis],
    inputs: tuple[Inputs, Inputs],
    names: tuple[str, str] | None,
    progress: bool | None,
    **wanted: Unpack[Wanted],
) -> tuple[Analysis, Analysis]:
    """The Analyses of two models, with the options of `compare`; ``what`` is the name of the caller."""
    sides: list[Analysis] = []
    made = all(isinstance(model, Analysis) for model in models)
    for model, own in zip(models, (None, inputs[1]), strict=True):
        given = inputs[0] if own is None else own
        more: Wanted = wanted if own is None else {**wanted, "input_size": None}
        if isinstance(model, Analysis) and not made:  # the inputs are meant for the other model
            given, more = own, {}
        sides.append(analysis_of(what, model, given, progress=progress, **more))
    if names is not None:
        if isinstance(names, str) or len(names) != 2:
            raise SpecError(f"{what}: names is {names!r}; give two names, one for each model")
        sides = [replace(side, name=str(name)) for side, name in zip(sides, names, strict=True)]
    return sides[0], sides[1]


def inputs_differ(a: Analysis, b: Analysis) -> tuple[str, ...]:
    """The note that the inputs of two models differ; empty if they do not."""
    if a.input_text == b.input_text:
        return ()
    return (f"the inputs differ: a has {a.input_text}, b has {b.input_text}",)


@dataclass(frozen=True)
class Comparison(Result):
    """The costs of two models side by side; ``print`` it, or take it as pandas, markdown, CSV, JSON or HTML.

    There is a row for each module name. Each measure has the columns ``macs_a``, ``macs_b``,
    ``macs_difference`` (b - a) and ``macs_ratio`` (b / a); ``columns`` takes ``"macs"`` for all four.
    ``only_in`` is ``"a"`` or ``"b"`` for a module that the other model lacks; its missing side counts as 0 in
    differences, so that they add up. Sorted by a difference, the largest change in size comes first.
    """

    a: Analysis
    """The first model."""
    b: Analysis
    """The second model."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the two models together, such as inputs that differ."""
        return inputs_differ(self.a, self.b)

    def document(self, asked: Asked) -> Document:
        """The contents to show; `archcost.analysis.reports.comparison` describes the schema of the JSON."""
        return document_of(self.a, self.b, self.notes, asked)

    def __repr__(self) -> str:
        return f"<Comparison of {self.a!r} with {self.b!r}>"
