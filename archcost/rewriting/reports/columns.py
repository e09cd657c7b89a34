"""The columns of a table of proposals, each defined once: name, unit, meaning, value, format.

Numbers are of one layer, all calls in a forward pass together; ``macs_saved`` is of all layers of a row. A
column "before -> after" in the terminal is two columns in data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from archcost.report.columns import Numbers
from archcost.report.document import Column, Get, Show
from archcost.report.units import axes_text, bytes_text, count_text, percent_text, ratio_text, si_text
from archcost.report.values import Cell
from archcost.rewriting.proposal import Proposal
from archcost.rewriting.reports.wording import (
    UNRELIABLE_SIGN,
    ProposalRow,
    error_text,
    ms_text,
    options_of,
    verdict_of,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "CHOSEN",
    "COLUMNS",
    "PEOPLE",
    "SEEN",
]


Of = Callable[[Proposal], Cell]
Columns = tuple[Column[ProposalRow], ...]


def _get(of: Of) -> Get[ProposalRow]:
    return lambda line: of(line.first)


def _words(
    name: str, header: str, meaning: str, of: Of, *, dtype: str = "str", keep: float = 0
) -> Column[ProposalRow]:
    return Column(name, header, meaning, _get(of), show=str, dtype=dtype, missing="", keep=keep)


def _number(
    name: str, header: str, meaning: str, of: Of, show: Show, **more: Unpack[Numbers]
) -> Column[ProposalRow]:
    given: Numbers = {"dtype": "Float64", "missing": "-", **more}
    return Column(name, header, meaning, _get(of), show=show, **given)


def _ratio(name: str) -> Of:
    """New over old value of a cost; None where the old one is 0."""
    return lambda one: (
        getattr(one.after, name) / getattr(one.before, name) if getattr(one.before, name) else None
    )


def _percent(line: ProposalRow) -> float | None:
    saved = sum(one.before.macs - one.after.macs for one in line.proposals)
    return 100 * saved / line.total_macs if line.total_macs else None


def _race(name: str) -> Of:
    return lambda one: None if one.race is None else getattr(one.race, name)


# Each cost: its name in `PlaceCosts`, header, meaning, unit, format and type.
_COSTS: tuple[tuple[str, str, str, str, Show, str], ...] = (
    ("params", "Params", "Parameters", "", count_text, "int64"),
    ("macs", "MACs", "Multiply-accumulates of a forward pass", "MACs", si_text, "int64"),
    (
        "activation_bytes",
        "Activations",
        "Bytes that its layers write in a forward pass",
        "bytes",
        bytes_text,
        "int64",
    ),
    ("depth", "Depth", "Weighted layers on its longest path", "", count_text, "int64"),
    (
        "nonlinearities",
        "Non-linearities",
        "Activation functions between its convolutions",
        "",
        count_text,
        "int64",
    ),
    ("receptive_field", "Field", "Receptive field of an output in its input", "pixels", axes_text, "object"),
    (
        "latency_ms",
        "Stored ms",
        "Stored time of its convolutions on PyTorch's own path, or on the one that is proposed",
        "ms",
        ms_text,
        "Float64",
    ),
    (
        "best_ms",
        "Best ms",
        "Stored time of its convolutions, each on its fastest path",
        "ms",
        ms_text,
        "Float64",
    ),
)


_SIDES = {"before": "of the old layer", "after": "of the new layers"}
_SIDE_BY_SIDE = [
    _number(
        *(f"{name}_{side}", f"{header} {side}", f"{meaning}; {of}", attrgetter(f"{side}.{name}"), show),
        unit=unit,
        dtype=dtype,
    )
    for name, header, meaning, unit, show, dtype in _COSTS
    for side, of in _SIDES.items()
]


def _error(one: Proposal) -> float | None:
    return 0.0 if one.exact else one.weight_error


def _percent_text(value: float) -> str:
    return f"-{percent_text(-value)}" if value < 0 else percent_text(value)


_ABOUT: Columns = (
    _words("name", "Layer", "Replaced module, the first where there are several", lambda one: one.name),
    _words("modules", "Modules", "All replaced modules", lambda one: ", ".join(one.replacement.chains)),
    _words("type", "Type", "Class of the old layer", lambda one: one.type_name),
    _words("shape", "Now", "Channels, kernel and stride of the old layer", lambda one: one.shape, keep=78),
    _words("rule", "Rule", "Rule that proposes the new layers", lambda one: one.rule, keep=105),
    _words("options", "Options", "Options of the rule, such as a rank", options_of, keep=95),
    _words(
        "exact",
        "Exact",
        "Whether the new layers compute the same, but for rounding",
        lambda one: one.exact,
        dtype="bool",
    ),
)
_SAVED: Columns = (
    _number("params_ratio", "Params x", "New parameters over old", _ratio("params"), ratio_text, keep=60),
    _number("macs_ratio", "MACs x", "New MACs over old", _ratio("macs"), ratio_text, keep=96),
    Column(
        "macs_saved",
        "Saved %",
        "MACs saved as a share of those of the model, for all layers of the row together",
        _percent,
        unit="%",
        show=_percent_text,
        dtype="Float64",
        missing="-",
        keep=65,
    ),
)
_OLD = "Time of the old layer, measured in turns with the new ones"
_NEW = "Time of the new layers, measured in turns with the old one"
_MEASURED: Columns = (
    _number("raced_ms_before", "Raced ms before", _OLD, _race("old_ms"), ms_text, unit="ms"),
    _number("raced_ms_after", "Raced ms after", _NEW, _race("new_ms"), ms_text, unit="ms"),
    _number(
        "raced_spread_ms",
        "Raced spread ms",
        "Interquartile range of the new layers' time",
        _race("spread_ms"),
        ms_text,
        unit="ms",
    ),
    _words("raced_on", "Raced on", "Machine and software of the raced times", _race("device")),
    _number(
        "raced_threads",
        "Raced threads",
        "PyTorch's threads in the raced times",
        _race("threads"),
        count_text,
        dtype="Int64",
    ),
    _number(
        "speedup",
        "Speedup",
        "Old time over new: raced, else from stored times of PyTorch's own path, or of the proposed one",
        attrgetter("speedup"),
        ratio_text,
        keep=95,
    ),
    _words(
        "disturbed",
        "Unreliable",
        "Whether the speedup is unreliable: other processes interrupted every sample of a time",
        lambda one: one.disturbed,
        dtype="bool",
    ),
)
_JUDGED: Columns = (
    _number(
        "weight_error",
        "Weight error",
        "||W - W'|| / ||W||, W' the kernel that the new layers compose to; 0 where exact",
        _error,
        error_text,
    ),
    _number(
        "output_error",
        "Output error",
        "Relative error of the layer's output, predicted over the calibration data",
        lambda one: one.output_error,
        error_text,
    ),
    _words(
        "recommended",
        "Recommended",
        "Whether it has fewer MACs or was faster on this machine, and was not slower",
        lambda one: one.recommended,
        dtype="bool",
    ),
    _words("objection", "Objection", "Why the proposal is not recommended", lambda one: one.objection),
    _words(
        "note",
        "Note",
        "Remarks on the new layers, as on a border where they differ",
        lambda one: one.replacement.note,
    ),
    Column(
        "best",
        "Best",
        "Whether Proposals.best chooses it for its layer",
        lambda line: line.best > 0,
        show=str,
        dtype="bool",
    ),
    Column(
        "verdict",
        "Verdict",
        "Why Proposals.best chooses it, or why not",
        lambda line: verdict_of(line) or None,
        show=str,
        dtype="str",
        missing="",
        keep=98,
    ),
)

COLUMNS: Columns = (*_ABOUT, *_SIDE_BY_SIDE, *_SAVED, *_MEASURED, *_JUDGED)
_BY_NAME = {column.name: column for column in COLUMNS}


def _change(name: str, header: str, keep: float) -> Column[ProposalRow]:
    """A column "before -> after", or a single value where both are the same."""
    before, after = _BY_NAME[f"{name}_before"], _BY_NAME[f"{name}_after"]

    def get(line: ProposalRow) -> tuple[Cell, Cell] | None:
        both = before.get(line), after.get(line)
        return None if None in both else both

    def show(both: tuple[Cell, Cell]) -> str:
        a, b = map(before.show, both)
        return a if a == b else f"{a} -> {b}"

    meaning = f"{before.meaning.partition(';')[0]}: before and after"
    return replace(
        before, name=name, header=header, meaning=meaning, get=get, show=show, keep=keep, reads_as_number=True
    )


def _range(name: str, keep: float) -> Column[ProposalRow]:
    """A column with the error of a layer, or the smallest and the largest of several layers."""
    column = _BY_NAME[name]

    def get(line: ProposalRow) -> tuple[float, float] | None:
        values = [column.get(ProposalRow((one,), line.total_macs)) for one in line.proposals]
        known = [value for value in values if isinstance(value, (int, float))]
        return (min(known), max(known)) if known else None

    def show(both: tuple[float, float]) -> str:
        low, high = map(error_text, both)
        return low if low == high else f"{low} to {high}"

    return replace(column, get=get, show=show, keep=keep)


def _marked(column: Column[ProposalRow], keep: float) -> Column[ProposalRow]:
    """A column of a time, with ``~`` before one that is unreliable."""

    def get(line: ProposalRow) -> tuple[Cell, Cell] | None:
        value = column.get(line)
        return None if value is None else (value, any(one.disturbed for one in line.proposals))

    def show(both: tuple[Cell, Cell]) -> str:
        return f"{UNRELIABLE_SIGN * bool(both[1])}{column.show(both[0])}"

    return replace(column, get=get, show=show, keep=keep, reads_as_number=True)


_SEEN = (
    *(_BY_NAME[name] for name in ("name", "shape", "rule", "options", "params_ratio")),
    _change("macs", "MACs", 70),
    *(_BY_NAME[name] for name in ("macs_ratio", "macs_saved")),
    _change("activation_bytes", "Activations", 30),
    _change("depth", "Depth", 20),
    _change("nonlinearities", "Non-lin.", 10),
    _change("receptive_field", "Field", 40),
    _change("latency_ms", "Stored ms", 50),
    _change("best_ms", "Best ms", 55),
    _change("raced_ms", "Raced ms", 84),
    # The last to go, but for the rule, where the terminal is narrow.
    _marked(_BY_NAME["speedup"], 103),
    _range("weight_error", 101),
    _range("output_error", 102),
    _BY_NAME["verdict"],
)
SEEN = tuple(column.name for column in _SEEN)
"""Names of the columns shown by default, as far as they have values."""

CHOSEN = tuple(
    column.name
    for column in _SEEN
    if column.name
    not in ("macs", "activation_bytes", "depth", "nonlinearities", "receptive_field", "verdict")
)
"""Names of the columns shown of the chosen proposals."""

PEOPLE: Columns = (*_SEEN, *(column for column in COLUMNS if column.name not in SEEN))
"""The columns that can be shown in a terminal, some in another format than in `COLUMNS`."""
