"""The columns of modules: name, unit, meaning, source and format of each; a new column is a new entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archcost.analysis.traced import TracedModel
from archcost.cost.costs import ModuleCost, OpCost
from archcost.fields.field import ReceptiveField
from archcost.report.columns import Look
from archcost.report.document import Column, Get
from archcost.report.units import (
    all_shapes_text,
    axes_text,
    bytes_text,
    number_text,
    percent_text,
    shape_text,
    si_text,
)
from archcost.report.values import Cell

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    *("COSTLIEST_COLUMNS", "DEFAULT_MODULE_COLUMNS", "MODULE_COLUMNS", "Row"),
    *("cells", "count", "size", "words"),
]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a report, from which the columns are read: the costs of a module or an operation."""

    cost: ModuleCost | OpCost
    analysis: TracedModel
    macs_open: bool = False
    """Whether the MACs are a lower bound, because those of an operation are unknown."""
    other_ops_open: bool = False
    """Whether the other operations are a lower bound."""
    kind: str = "module"
    """``module`` (or operation), ``own`` (operations that a module runs itself), ``sum`` (several modules
    summed) or ``fold`` (equal modules summed)."""

    @property
    def module(self) -> ModuleCost:
        assert isinstance(self.cost, ModuleCost)
        return self.cost

    @property
    def operation(self) -> OpCost:
        assert isinstance(self.cost, OpCost)
        return self.cost


def cells(row: Row, columns: Sequence[Column[Row]]) -> tuple[str, ...]:
    """The texts of a line; empty where a value means nothing for several modules together."""
    blank = row.kind in ("own", "sum")
    return tuple("" if blank and not column.summed else column.text(row) for column in columns)


def _field(name: str) -> Get[Row]:
    return lambda row: getattr(row.cost, name)


def _macs_open(row: Row) -> bool:
    return row.macs_open


def _other_ops_open(row: Row) -> bool:
    return row.other_ops_open


def count(
    name: str,
    header: str,
    meaning: str,
    lower_bound: Callable[[Row], bool] = lambda row: False,
    **look: Unpack[Look],
) -> Column[Row]:
    """A column of numbers that add up, read from the attribute of its name."""
    whole: Look = {"additive": True, **look}
    return Column(name, header, meaning, _field(name), lower_bound=lower_bound, **whole)


def size(name: str, header: str, meaning: str, **look: Unpack[Look]) -> Column[Row]:
    """A `count` of bytes."""
    whole: Look = {"unit": "bytes", "show": bytes_text, **look}
    return count(name, header, meaning, **whole)


def words(
    name: str, header: str, meaning: str, get: Get[Row] | None = None, **look: Unpack[Look]
) -> Column[Row]:
    """A column of texts, which have no sum; read by ``get``, or from the attribute of its name."""
    whole: Look = {"show": str, "dtype": "str", "missing": "", "summed": False, **look}
    return Column(name, header, meaning, get or _field(name), **whole)


def _share(row: Row) -> float | None:
    total = row.analysis.total.macs
    return 100 * row.module.macs / total if total else None


def _receptive(get: Get[ReceptiveField]) -> Get[Row]:
    """A getter of a property of a module's receptive field, for the model itself of the network's."""

    def read(row: Row) -> Cell:
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


def _built_at(row: Row) -> str | None:
    info = row.analysis.trace.modules.get(row.module.name)
    return None if info is None or info.built_at is None else str(info.built_at)


def _pixels(name: str, header: str, meaning: str, get: Get[ReceptiveField]) -> Column[Row]:
    """A column with a number for each spatial axis of the input."""
    look: Look = {
        "unit": "pixels",
        "show": axes_text,
        "dtype": "object",
        "missing": "-",
        "reads_as_number": True,
    }
    return words(name, header, meaning, _receptive(get), **look)


MODULE_COLUMNS: tuple[Column[Row], ...] = (
    words("name", "Module", "Name in named_modules(); that of the model itself is empty", keep=100),
    words("type", "Type", "The class of the module", lambda row: row.module.type_name, keep=50),
    Column(
        "level",
        "Level",
        "Depth of nesting; the model itself is level 0",
        _field("level"),
        summed=False,
    ),
    Column(
        "is_leaf",
        "Leaf",
        "Whether the module has no children",
        _field("is_leaf"),
        show=str,
        dtype="bool",
        summed=False,
    ),
    count("calls", "Calls", "Number of times the module was called", additive=False, summed=False),
    words(
        "output_shape",
        "Output",
        "Shape of the output in the last call; a shape for each of several outputs",
        show=shape_text,
        in_full=all_shapes_text,
        dtype="object",
        missing="-",
        keep=60,
        reads_as_number=True,
    ),
    words(
        "receptive_field",
        "Field",
        "Size of the receptive field in input pixels; for the model itself that of its last feature map",
        _receptive(lambda field: field.size_text()),
        missing="-",
        keep=58,
        reads_as_number=True,
    ),
    _pixels(
        "rf_size", "Field size", "Size of the receptive field; the whole input where global", lambda f: f.size
    ),
    _pixels(
        "rf_stride",
        "Field stride",
        "Distance of the receptive fields of neighbouring positions; 0 where global",
        lambda f: f.stride,
    ),
    _pixels(
        "rf_padding",
        "Field padding",
        "Pixels by which the receptive field of position 0 begins before the input",
        lambda f: f.padding,
    ),
    _pixels(
        "rf_local_size",
        "Local field",
        "Size of the receptive field with global operations taken as constants",
        lambda field: field.local.size,
    ),
    words(
        "rf_because",
        "Global because",
        "The operation that makes the receptive field the whole input",
        _receptive(lambda field: field.reason),
    ),
    Column(
        "rf_in_padding_percent",
        "Field in padding %",
        "Share of the window outside the input, mean over positions, global operations taken as constants",
        _in_padding,
        unit="%",
        show=percent_text,
        dtype="Float64",
        missing="-",
        summed=False,
    ),
    count("params", "Params", "Parameters; tied and shared ones are counted once", keep=85),
    count("trainable_params", "Trainable", "Parameters with requires_grad"),
    count("buffers", "Buffers", "Elements of buffers such as running means"),
    count(
        "macs",
        "MACs",
        "Multiply-accumulates of convolutions and matrix products",
        unit="MACs",
        show=si_text,
        keep=90,
        lower_bound=_macs_open,
    ),
    count(
        "flops",
        "FLOPs",
        "Arithmetic in the MACs: 2 each, 8 where complex; other operations are not among them",
        unit="FLOPs",
        show=si_text,
        lower_bound=_macs_open,
    ),
    count(
        "other_ops",
        "Other ops",
        "All other arithmetic: bias, normalisation, activations, pooling",
        unit="operations",
        show=si_text,
        keep=30,
        lower_bound=_other_ops_open,
    ),
    size("input_bytes", "Read", "Bytes of activations that the operations read"),
    size("weight_bytes", "Weights read", "Bytes of parameters and buffers that the operations read"),
    size("output_bytes", "Written", "Bytes of activations that the operations write"),
    size("param_bytes", "Param memory", "Bytes of the parameters"),
    size("buffer_bytes", "Buffer memory", "Bytes of the buffers"),
    size("activation_bytes", "Activations", "Bytes of new memory that the operations allocate", keep=45),
    size(
        "peak_memory_bytes",
        "Peak memory",
        "Most bytes of activations alive at once during the module's calls",
        additive=False,
        keep=55,
    ),
    size(
        "kept_for_backward_bytes",
        "Saved for backward",
        "Bytes of activations that autograd saves for the backward pass",
        dtype="Int64",
    ),
    Column(
        "intensity_flops_per_byte",
        "FLOPs/byte",
        "Arithmetic intensity: (flops + other ops) per byte read or written",
        lambda row: row.module.arithmetic_intensity,
        unit="FLOPs/byte",
        show=number_text,
        dtype="Float64",
        missing="-",
    ),
    count("neurons", "Neurons", "Output elements of the weighted operations"),
    count("uncounted", "Uncounted", "Number of operations whose count is unknown"),
    Column(
        "macs_share_percent",
        "MACs %",
        "Share of the counted MACs of the model",
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
        "Whether the MACs are a lower bound, because some are unknown",
        _macs_open,
        show=str,
        dtype="bool",
    ),
    words("shared_with", "Shared with", "First name of a module that is registered under several names"),
    words(
        "tied",
        "Tied",
        "Parameters that share a tensor with others, with their names",
        show="; ".join,
        dtype="object",
    ),
    words(
        "kernel",
        "Kernel",
        "Kernel and stride of its convolution or pooling, dilation and groups where they are not 1",
        lambda row: row.analysis.kernels.get(row.module.name),
        keep=88,
    ),
    words("details", "Details", "Arguments of the module, as in repr(module)"),
    words(
        "built_at",
        "Built at",
        "File, line and column of the code that built the module; the line of its class where not recorded",
        _built_at,
        missing="-",
        keep=80,
    ),
)

DEFAULT_MODULE_COLUMNS = (
    *("name", "output_shape", "receptive_field", "params", "macs", "macs_share_percent"),
    *("other_ops", "activation_bytes", "peak_memory_bytes"),
)
COSTLIEST_COLUMNS = (
    *("name", "kernel", "output_shape", "params", "macs", "macs_share_percent", "peak_memory_bytes"),
)
