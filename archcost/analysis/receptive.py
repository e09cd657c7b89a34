"""receptive_field: the window of one layer and position, and the witness that it is true."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from archcost.errors import ModelError
from archcost.fields.field import ReceptiveField
from archcost.report.document import Asked, Document, Note
from archcost.report.result import Result

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.analysis.analysis import Analysis
    from archcost.fields.effective import EffectiveField
    from archcost.fields.witness import Witness

__all__ = ["FieldOfLayer", "receptive_field", "verify_field", "verify_fields"]


def receptive_field(
    model: nn.Module | str | Analysis,
    inputs: Any = None,
    layer: str | None = None,
    position: Sequence[int] | int | None = None,
    *,
    call: int | None = None,
    of: int | None = None,
    verify: bool = False,
    input_size: Any = None,
    dtype: Any = None,
    device: str | torch.device | None = None,
) -> ReceptiveField:
    """The part of the input that one position of one layer sees.

    Args:
        model: a module, a SPEC, or the Analysis of one.
        inputs, input_size, dtype, device: as in `archcost.analyze`; an Analysis has its own, and takes inputs
            for ``verify`` alone.
        layer: a name in ``named_modules()``; by default the network at its last spatial feature map.
        position: one index for each spatial dimension of the layer's output; by default the centre.
        call: which call of a layer that is called several times; by default their union.
        of: which of several input tensors; by default the first that the layer sees.
        verify: plant NaN inside and outside the window of the real model and see that it reaches the
            position, or does not: a clean pass in float64, and three for each axis.

    Raises:
        InputError: the inputs do not fit, or an Analysis gets some that would not be used.
        SpecError: no such layer, position or call.
        ModelError: ``verify`` and the model disagrees, cannot run in float64, or is gone.
    """
    from archcost.analysis.analysis import Analysis, analysis_of

    # The witness of an Analysis may run on inputs of one's own.
    own = None if isinstance(model, Analysis) and verify else inputs
    more = {"input_size": input_size, "dtype": dtype, "device": device}
    analysis = analysis_of("receptive_field", model, own, **more)
    field = analysis.fields.select(layer, position, call, of)
    if verify:
        witness = verify_field(analysis, field, inputs, call)
        if not witness.agrees:
            raise ModelError(f"{analysis.name}, {layer or 'the network'}: {witness}")
    return field


def verify_field(
    analysis: Analysis, field: ReceptiveField, inputs: Any = None, call: int | None = None
) -> Witness:
    """What the real model says of one field's window."""
    return verify_fields(analysis, [field], inputs, call)[0]


def verify_fields(
    analysis: Analysis, fields: Iterable[ReceptiveField], inputs: Any = None, call: int | None = None
) -> list[Witness]:
    """The same of several fields, for which the model is copied only once."""
    from archcost.fields.witness import bear_witness
    from archcost.trace.call import Call, like_traced
    from archcost.trace.modules import as_written

    args, kwargs = Call.of(inputs) if inputs is not None else like_traced(analysis.trace)
    model = as_written(analysis.model)
    return bear_witness(model, args, kwargs, [analysis.fields.claim(field, call, model) for field in fields])


@dataclass(frozen=True)
class FieldOfLayer(Result):
    """The field of one layer of a model, with what was measured of it, as ``archcost field`` shows it."""

    name: str
    """Of the model."""
    input_text: str
    field: ReceptiveField
    effective: EffectiveField | None = None
    witness: Witness | None = None
    notes: tuple[Note, ...] = ()

    def document(self, asked: Asked) -> Document:
        """The record of the field; ``verified``, ``effective`` where they were asked for."""
        lines = self.field.lines() + ([] if self.effective is None else self.effective.lines())
        lines += [] if self.witness is None else [str(self.witness)]
        of_field = self.field.document(asked)
        heading = (f"{self.name}, input {self.input_text}", "")
        notes = list(self.notes)
        return Document(
            "archcost.field/1", [heading], of_field.tables, of_field.shown, self._record, lines,
            lambda grids: notes,
        )  # fmt: skip

    def _record(self) -> dict[str, Any]:
        record = {"model": self.name, "input": self.input_text, **self.field.record()}
        if self.witness is not None:
            record["verified"] = self.witness.agrees
        if self.effective is not None:
            record["effective"] = {"side": self.effective.side, "share": self.effective.share}
        return record
