"""Every column of every report, defined once: its name, unit and meaning, where it comes from, its look.

Adding a column is adding one entry to `MODULE_COLUMNS` or `OPERATION_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from archcost.cost.costs import ModuleCost, OpCost
from archcost.fields.field import ReceptiveField
from archcost.report.document import Column
from archcost.report.units import (
    all_shapes_text,
    axes_text,
    bytes_text,
    number_text,
    percent_text,
    shape_text,
    si_text,
)

__all__ = [
    *("DEFAULT_MODULE_COLUMNS", "DEFAULT_OPERATION_COLUMNS", "MODULE_COLUMNS", "OPERATION_COLUMNS"),
    *("Row", "cells"),
]


@dataclass(frozen=True, slots=True)
class Row:
    """What a column is read from: one module's or operation's cost, and what is known around it.

    ``kind`` says what stands in the row: a module, an operation, the operations a module makes itself
    (``own``), several modules summed (``sum``), or several that are alike summed (``fold``).
    """

    cost: Any
    analysis: Any
    macs_open: bool = False
    """The MACs are a lower bound: an operation with unknown MACs is among them."""
    other_ops_open: bool = False
    kind: str = "module"

    @property
    def module(self) -> ModuleCost:
        cost: ModuleCost = self.cost
        return cost

    @property
    def operation(self) -> OpCost:
        cost: OpCost = self.cost
        return cost


Get = Callable[[Row], Any]


def cells(row: Row, columns: Sequence[Column]) -> tuple[str, ...]:
    """The texts of a line; blank where a value means nothing for several modules together."""
    blank = row.kind in ("own", "sum")
    return tuple("" if blank and not column.summed else column.text(row) for column in columns)


def _field(name: str) -> Get:
    return lambda row: getattr(row.cost, name)


def _macs_open(row: Row) -> bool:
    return row.macs_open


def _other_ops_open(row: Row) -> bool:
    return row.other_ops_open


def _count(name: str, header: str, meaning: str, unit: str = "", **options: Any) -> Column:
    """A number that adds up, read from the field of the same name."""
    return Column(name, header, meaning, _field(name), **{"unit": unit, "additive": True, **options})


def _bytes(name: str, header: str, meaning: str, **options: Any) -> Column:
    return _count(name, header, meaning, "bytes", **{"show": bytes_text, **options})


def _words(name: str, header: str, meaning: str, get: Get | None = None, **options: Any) -> Column:
    defaults: dict[str, Any] = {"show": str, "dtype": "str", "missing": "", "summed": False}
    return Column(name, header, meaning, get or _field(name), **{**defaults, **options})


def _share(row: Row) -> float | None:
    total = row.analysis.total.macs
    return 100 * row.module.macs / total if total else None


def _shape_of_op(row: Row) -> tuple[int, ...] | None:
    outputs = row.operation.op.outputs
    return outputs[0].shape if outputs else None


def _receptive(get: Callable[[ReceptiveField], Any]) -> Get:
    """Something of a module's receptive field; of the network's for the model itself. None: it has none."""

    def read(row: Row) -> Any:
        fields = row.analysis.fields_or_none
        if fields is None:
            return None
        found = fields.get(row.module.name) if row.module.name else fields.network
        return None if found is None else get(found)

    return read


def _in_padding(row: Row) -> float | None:
    fields = row.analysis.fields_or_none
    share = fields.padding_share(row.module.name) if fields is not None else None
    return None if share is None else 100 * share


def _pixels(name: str, header: str, meaning: str, get: Callable[[ReceptiveField], Any]) -> Column:
    """One number for each spatial axis of the input."""
    shown: dict[str, Any] = {"show": axes_text, "dtype": "object", "missing": "-", "reads_as_number": True}
    return _words(name, header, meaning, _receptive(get), unit="pixels", **shown)


MODULE_COLUMNS: tuple[Column, ...] = (
    _words("name", "Module", "The name in named_modules(); the model itself has the empty name", keep=100),
    _words("type", "Type", "The class of the module", lambda row: row.module.type_name, keep=50),
    Column(
        "level",
        "Level",
        "Distance from the model itself, which is 0",
        _field("level"),
        summed=False,
    ),
    Column(
        "is_leaf", "Leaf", "Holds no other modules", _field("is_leaf"), show=str, dtype="bool", summed=False
    ),
    _count("calls", "Calls", "How often the module was called", additive=False, summed=False),
    _words(
        "output_shape",
        "Output",
        "Shape of the last call's output; of several, a shape for each",
        show=shape_text,
        in_full=all_shapes_text,
        dtype="object",
        missing="-",
        keep=60,
        reads_as_number=True,
    ),
    _words(
        "receptive_field",
        "Field",
        "Receptive field: its size in input pixels; the model's own is that of its last feature map",
        _receptive(lambda field: field.size_text()),
        missing="-",
        keep=58,
        reads_as_number=True,
    ),
    _pixels("rf_size", "Field size", "Receptive field; the whole input where global", lambda f: f.size),
    _pixels("rf_stride", "Field stride", "From one position to the next; 0 where global", lambda f: f.stride),
    _pixels("rf_padding", "Field padding", "How far position 0 begins before the input", lambda f: f.padding),
    _pixels(
        "rf_local_size",
        "Local field",
        "Receptive field with global operations taken as constants",
        lambda field: field.local.size,
    ),
    _words(
        "rf_because",
        "Global because",
        "The operation that makes the field the whole input",
        _receptive(lambda field: field.reason),
    ),
    Column(
        "rf_in_padding_percent",
        "Field in padding %",
        "Share of the windows that lies outside the input, mean over all positions, global operations apart",
        _in_padding,
        unit="%",
        show=percent_text,
        dtype="Float64",
        missing="-",
        summed=False,
    ),
    _count("params", "Params", "Parameters, tied and shared ones once", keep=85),
    _count("trainable_params", "Trainable", "Parameters with requires_grad"),
    _count("buffers", "Buffers", "Elements of buffers such as running means"),
    _count(
        "macs",
        "MACs",
        "Multiply-accumulates of convolutions and matrix products",
        unit="MACs",
        show=si_text,
        keep=90,
        lower_bound=_macs_open,
    ),
    _count(
        "flops",
        "FLOPs",
        "Arithmetic in the MACs: 2 each, 8 where complex; other operations are not among them",
        unit="FLOPs",
        show=si_text,
        lower_bound=_macs_open,
    ),
    _count(
        "other_ops",
        "Other ops",
        "All other arithmetic: bias, normalisation, activations, pooling",
        unit="operations",
        show=si_text,
        keep=30,
        lower_bound=_other_ops_open,
    ),
    _bytes("input_bytes", "Read", "Activation bytes read by the operations"),
    _bytes("weight_bytes", "Weights read", "Parameter and buffer bytes read by the operations"),
    _bytes("output_bytes", "Written", "Bytes written by the operations"),
    _bytes("param_bytes", "Param memory", "Bytes of the parameters"),
    _bytes("buffer_bytes", "Buffer memory", "Bytes of the buffers"),
    _bytes("activation_bytes", "Activations", "Bytes of new memory allocated by the operations", keep=45),
    _bytes(
        "peak_memory_bytes",
        "Peak memory",
        "Most activation bytes alive at once while it ran",
        additive=False,
        keep=55,
    ),
    _bytes(
        "kept_for_backward_bytes",
        "Kept for backward",
        "Activation bytes autograd keeps for training",
        dtype="Int64",
    ),
    Column(
        "intensity_flops_per_byte",
        "FLOPs/byte",
        "(flops + other ops) per byte read or written",
        lambda row: row.module.arithmetic_intensity,
        unit="FLOPs/byte",
        show=number_text,
        dtype="Float64",
        missing="-",
    ),
    _count("neurons", "Neurons", "Output elements of the weighted operations"),
    _count("uncounted", "Uncounted", "Operations whose count is not known"),
    Column(
        "macs_share_percent",
        "MACs %",
        "Share of the model's counted MACs",
        _share,
        unit="%",
        show=percent_text,
        dtype="Float64",
        missing="-",
        additive=True,
        keep=40,
    ),
    Column(
        "macs_lower_bound",
        "Lower bound",
        "Whether the MACs are only a lower bound",
        _macs_open,
        show=str,
        dtype="bool",
    ),
    _words("shared_with", "Shared with", "The first name of a module registered under several"),
    _words(
        "tied",
        "Tied",
        "Parameters that are one tensor under several names",
        show="; ".join,
        dtype="object",
    ),
    _words("details", "Details", "The arguments in repr(module)"),
)

OPERATION_COLUMNS: tuple[Column, ...] = (
    Column("index", "Index", "Position in the order of execution", lambda row: row.operation.op.index),
    _words("op", "Operation", "The framework's operator", lambda row: row.operation.op.name, keep=100),
    _words("module", "Module", "The module that made the call", keep=95),
    _words("kind", "Kind", "What sort of operation it is", keep=20),
    _words(
        "output_shape",
        "Output",
        "Shape of the first output",
        _shape_of_op,
        show=shape_text,
        dtype="object",
        missing="-",
        keep=60,
        reads_as_number=True,
    ),
    _count(
        "macs",
        "MACs",
        "Multiply-accumulates of convolutions and matrix products",
        unit="MACs",
        show=si_text,
        dtype="Int64",
        keep=90,
    ),
    _count(
        "flops",
        "FLOPs",
        "Arithmetic in the MACs: 2 each, 8 where complex; other operations are not among them",
        unit="FLOPs",
        show=si_text,
        dtype="Int64",
    ),
    _count(
        "other_ops",
        "Other ops",
        "All other arithmetic operations",
        unit="operations",
        show=si_text,
        dtype="Int64",
        keep=30,
    ),
    _bytes("input_bytes", "Read", "Activation bytes read"),
    _bytes("weight_bytes", "Weights read", "Parameter and buffer bytes read"),
    _bytes("output_bytes", "Written", "Bytes written"),
    _bytes("activation_bytes", "Activations", "Bytes of new memory allocated", keep=45),
    _bytes("live_bytes", "Alive", "Activation bytes alive while it ran", additive=False, keep=55),
    _count("neurons", "Neurons", "Output elements, where the operation is weighted"),
    _words("reason", "Why not counted", "Why the count, or part of it, is not known"),
    _words(
        "fed_by",
        "Fed by",
        "Indices of the operations whose results it read",
        lambda row: row.operation.op.fed_by,
        show=lambda value: " ".join(map(str, value)),
        dtype="object",
    ),
)

DEFAULT_MODULE_COLUMNS = (
    *("name", "output_shape", "receptive_field", "params", "macs", "macs_share_percent"),
    *("other_ops", "activation_bytes", "peak_memory_bytes"),
)
DEFAULT_OPERATION_COLUMNS = (
    *("index", "op", "module", "output_shape", "macs", "other_ops", "activation_bytes", "live_bytes"),
)
