"""`receptive_field`, the part of the input that a layer sees, and its verification on the real model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archcost.errors import ModelError
from archcost.fields.field import ReceptiveField
from archcost.report.document import Asked, Document, Note
from archcost.report.result import Result
from archcost.report.values import Json

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.analysis.analysis import Analysis
    from archcost.fields.effective import EffectiveField
    from archcost.fields.witness import Witness
    from archcost.trace.inputs import DTypes, Inputs, InputSize

__all__ = ["LayerField", "receptive_field", "verify_field", "verify_fields"]


def receptive_field(
    model: nn.Module | str | Analysis,
    inputs: Inputs = None,
    layer: str | None = None,
    position: Sequence[int] | int | None = None,
    *,
    call: int | None = None,
    of: int | None = None,
    verify: bool = False,
    input_size: InputSize | None = None,
    dtype: DTypes | None = None,
    device: str | torch.device | None = None,
) -> ReceptiveField:
    """The receptive field of a layer: the part of the input that a position of its output depends on.

    Args:
        model: a module, a SPEC, or an Analysis.
        inputs: as in `archcost.analyze`; with an Analysis they are used for ``verify`` only.
        layer: a name in ``named_modules()``; by default the network at its last spatial feature map.
        position: an index for each spatial axis of the layer's output; by default the centre.
        call: which call of a layer that is called several times, from 0; by default the union of all.
        of: which of several input tensors, from 0; by default the first that the layer depends on.
        verify: check the window on the real model, in float64: NaN inside the window reaches the position,
            NaN outside does not. This takes a forward pass, and three for each spatial axis.
        input_size: as in `archcost.analyze`.
        dtype: as in `archcost.analyze`.
        device: as in `archcost.analyze`.

    Returns:
        Size, stride and padding in pixels of the input, and the window of the position.

    Raises:
        InputError: the inputs do not fit, or an Analysis is given inputs that would not be used.
        SpecError: no such layer, position, call or input.
        ModelError: with ``verify``, the model contradicts the window, cannot run in float64, or is gone.
    """
    from archcost.analysis.analysis import Analysis, analysis_of

    # With an Analysis the inputs are for the verification.
    own = None if isinstance(model, Analysis) and verify else inputs
    analysis = analysis_of("receptive_field", model, own, input_size=input_size, dtype=dtype, device=device)
    field = analysis.fields.select(layer, position, call, of)
    if verify:
        witness = verify_field(analysis, field, inputs, call)
        if not witness.agrees:
            raise ModelError(f"{analysis.name}, {layer or 'the network'}: {witness}")
    return field


def verify_field(
    analysis: Analysis, field: ReceptiveField, inputs: Inputs = None, call: int | None = None
) -> Witness:
    """Check the window of a receptive field on the real model, as `verify_fields` does for several."""
    return verify_fields(analysis, [field], inputs, call)[0]


def verify_fields(
    analysis: Analysis, fields: Iterable[ReceptiveField], inputs: Inputs = None, call: int | None = None
) -> list[Witness]:
    """Check the windows of receptive fields on a float64 copy of the real model.

    Args:
        analysis: the Analysis of the model, which must still exist.
        fields: receptive fields of the Analysis.
        inputs: inputs to run on; by default random ones of the traced shapes.
        call: which call of a layer that is called several times, from 0.

    Returns:
        For each field, whether NaN arrived as the window says.

    Raises:
        ModelError: the model is gone, or cannot be copied or run in float64.
    """
    from archcost.fields.witness import bear_witness
    from archcost.trace.call import Call, like_traced
    from archcost.trace.modules import as_written

    args, kwargs = Call.of(inputs) if inputs is not None else like_traced(analysis.trace)
    model = as_written(analysis.model)
    return bear_witness(model, args, kwargs, [analysis.fields.claim(field, call, model) for field in fields])


@dataclass(frozen=True)
class LayerField(Result):
    """The receptive field of a layer with its measurements, as ``archcost field`` shows it."""

    name: str
    """The name of the model."""
    input_text: str
    """Shapes and dtypes of the inputs."""
    field: ReceptiveField
    effective: EffectiveField | None = None
    witness: Witness | None = None
    notes: tuple[Note, ...] = ()

    def document(self, asked: Asked) -> Document:
        """The contents to show; the JSON has the record of the field, and ``verified`` and ``effective``."""
        lines = self.field.lines() + ([] if self.effective is None else self.effective.lines())
        lines += [] if self.witness is None else [str(self.witness)]
        of_field = self.field.document(asked)
        heading = (f"{self.name}, input {self.input_text}", "")
        notes = list(self.notes)
        return Document(
            "archcost.field/1", [heading], of_field.tables, of_field.shown, self._record, lines,
            lambda grids: notes,
        )  # fmt: skip

    def _record(self) -> dict[str, Json]:
        record: dict[str, Json] = {"model": self.name, "input": self.input_text, **self.field.record()}
        if self.witness is not None:
            record["verified"] = self.witness.agrees
        if self.effective is not None:
            record["effective"] = {"side": self.effective.side, "share": self.effective.share}
        return record
