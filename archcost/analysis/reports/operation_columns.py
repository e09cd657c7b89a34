"""The columns of operations: name, unit, meaning, source and format of each; a new column is a new entry."""

from __future__ import annotations

from archcost.analysis.reports.columns import Row, count, size, words
from archcost.report.document import Column
from archcost.report.units import shape_text, si_text

__all__ = ["DEFAULT_OPERATION_COLUMNS", "OPERATION_COLUMNS"]


def _shape_of_op(row: Row) -> tuple[int, ...] | None:
    outputs = row.operation.op.outputs
    return outputs[0].shape if outputs else None


OPERATION_COLUMNS: tuple[Column[Row], ...] = (
    Column("index", "Index", "Position in the order of execution", lambda row: row.operation.op.index),
    words(
        "op",
        "Operation",
        "Operator of PyTorch, such as aten.convolution",
        lambda row: row.operation.op.name,
        keep=100,
    ),
    words("module", "Module", "Module whose forward ran the operation", keep=95),
    words("kind", "Kind", "Kind of operation, such as convolution or pool", keep=20),
    words(
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
    count(
        "macs",
        "MACs",
        "Multiply-accumulates of convolutions and matrix products",
        unit="MACs",
        show=si_text,
        dtype="Int64",
        keep=90,
    ),
    count(
        "flops",
        "FLOPs",
        "Arithmetic in the MACs: 2 each, 8 where complex; other operations are not among them",
        unit="FLOPs",
        show=si_text,
        dtype="Int64",
    ),
    count(
        "other_ops",
        "Other ops",
        "All other arithmetic operations",
        unit="operations",
        show=si_text,
        dtype="Int64",
        keep=30,
    ),
    size("input_bytes", "Read", "Bytes of activations read"),
    size("weight_bytes", "Weights read", "Bytes of parameters and buffers read"),
    size("output_bytes", "Written", "Bytes of activations written"),
    size("activation_bytes", "Activations", "Bytes of new memory allocated", keep=45),
    size("live_bytes", "Alive", "Bytes of activations alive during the operation", additive=False, keep=55),
    count("neurons", "Neurons", "Output elements of a weighted operation"),
    words("reason", "Why not counted", "Reason why the count, or part of it, is unknown"),
    words(
        "fed_by",
        "Fed by",
        "Indices of the operations whose outputs are read",
        lambda row: row.operation.op.fed_by,
        show=lambda value: " ".join(map(str, value)),
        dtype="object",
    ),
)

DEFAULT_OPERATION_COLUMNS = (
    *("index", "op", "module", "output_shape", "macs", "other_ops", "activation_bytes", "live_bytes"),
)
