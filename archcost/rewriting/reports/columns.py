"""The columns of a table of proposals, each defined once: name, unit, meaning, where it comes from, its look.

Every number is of one layer, all of its calls in a pass together, but for ``macs_saved``, which is of all the
layers in a row. What people see as one column, before -> after, is two in data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from archcost.report.document import Column
from archcost.report.units import axes_text, bytes_text, count_text, percent_text, ratio_text, si_text
from archcost.rewriting.proposal import Proposal

__all__ = ["COLUMNS", "PEOPLE", "SEEN", "ProposalLine", "error_text", "ms_text", "options_text"]


@dataclass(frozen=True)
class ProposalLine:
    """What stands in one row: a proposal, or the same one for several layers that are alike."""

    proposals: tuple[Proposal, ...]
    total_macs: int
    """Of the model."""
    best: int = 0
    """How many of them are the best of their layers, which `Proposals.best` gives."""

    @property
    def first(self) -> Proposal:
        return self.proposals[0]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.proposals)


def options_text(options: dict[str, Any]) -> str:
    """``rank 32, order rows first``; a list is shown as ``8x16``."""
    return ", ".join(f"{name.replace('_', ' ')} {_option(value)}" for name, value in options.items())


def _option(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "x".join(map(_option, value)) if isinstance(value, (list, tuple)) else str(value)


def error_text(value: float) -> str:
    """Three decimals where that says enough: ``0.214``, else ``3e-07``."""
    return "0" if value == 0 else f"{value:.3f}" if 0.001 <= value < 1000 else f"{value:.0e}"


def ms_text(value: float) -> str:
    """``1.24``, without unit."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


Of = Callable[[Proposal], Any]


def _get(of: Of) -> Callable[[ProposalLine], Any]:
    return lambda line: of(line.first)


def _words(name: str, header: str, meaning: str, of: Of, *, dtype: str = "str", keep: float = 0) -> Column:
    return Column(name, header, meaning, _get(of), show=str, dtype=dtype, missing="", keep=keep)


def _number(
    name: str, header: str, meaning: str, of: Of, show: Callable[[Any], str], unit: str = "", **more: Any
) -> Column:
    given: dict[str, Any] = {"dtype": "Float64", "missing": "-", **more}
    return Column(name, header, meaning, _get(of), unit=unit, show=show, **given)


def _ratio(name: str) -> Of:
    """New over old; None where there was nothing."""
    return lambda one: (
        getattr(one.after, name) / getattr(one.before, name) if getattr(one.before, name) else None
    )


def _percent(line: ProposalLine) -> float | None:
    saved = sum(one.before.macs - one.after.macs for one in line.proposals)
    return 100 * saved / line.total_macs if line.total_macs else None


def _race(name: str) -> Of:
    return lambda one: None if one.race is None else getattr(one.race, name)


# Of each cost: its name in `Costs`, header, meaning, unit, look and type.
_COSTS: tuple[tuple[str, str, str, str, Callable[[Any], str], str], ...] = (
    ("params", "Params", "Parameters", "", count_text, "int64"),
    ("macs", "MACs", "Multiply-accumulates of a pass", "MACs", si_text, "int64"),
    ("activation_bytes", "Activations", "What its layers write in a pass", "bytes", bytes_text, "int64"),
    ("depth", "Depth", "Weighted layers on the longest path through it", "", count_text, "int64"),
    ("nonlinearities", "Non-linearities", "Activations between its convolutions", "", count_text, "int64"),
    ("receptive_field", "Field", "Pixels of its input that an output sees", "pixels", axes_text, "object"),
    ("latency_ms", "Native ms", "Its convolutions on PyTorch's own path, stored", "ms", ms_text, "Float64"),
    ("best_ms", "Best ms", "The same, each on its fastest measured path", "ms", ms_text, "Float64"),
)


_SIDES = {"before": "of the layer as it is", "after": "of what would stand there"}
_SIDE_BY_SIDE = [
    _number(
        *(f"{name}_{side}", f"{header} {side}", f"{meaning}; {of}", attrgetter(f"{side}.{name}"), show, unit),
        dtype=dtype,
    )
    for name, header, meaning, unit, show, dtype in _COSTS
    for side, of in _SIDES.items()
]


def _error(one: Proposal) -> float | None:
    return 0.0 if one.exact else one.weight_error


def _percent_text(value: float) -> str:
    return f"-{percent_text(-value)}" if value < 0 else percent_text(value)


_ABOUT: tuple[Column, ...] = (
    _words("name", "Layer", "The module replaced, the first where there are several", lambda one: one.name),
    _words("modules", "Modules", "All modules replaced", lambda one: ", ".join(one.replacement.chains)),
    _words("type", "Type", "Class of the layer", lambda one: one.type_name),
    _words("shape", "Now", "Channels, kernel and stride of the layer", lambda one: one.shape, keep=78),
    _words("rule", "Rule", "The rule that proposes it", lambda one: one.rule, keep=100),
    _words("options", "Options", "What the rule leaves open", lambda o: options_text(o.options), keep=82),
    _words("exact", "Exact", "Computes the same, but for rounding", lambda one: one.exact, dtype="bool"),
)
_SAVED: tuple[Column, ...] = (
    _number("params_ratio", "Params x", "New parameters over old", _ratio("params"), ratio_text, keep=60),
    _number("macs_ratio", "MACs x", "New MACs over old", _ratio("macs"), ratio_text, keep=96),
    Column(
        "macs_saved",
        "Saved %",
        "MACs saved, as a share of those of the model; for all layers of the row together",
        _percent,
        unit="%",
        show=_percent_text,
        dtype="Float64",
        missing="-",
        keep=65,
    ),
)
_OLD, _NEW = "Of the old layer, in turns with the new", "Of the new layers, in turns with the old"
_MEASURED: tuple[Column, ...] = (
    _number("raced_ms_before", "Raced ms before", _OLD, _race("old_ms"), ms_text, "ms"),
    _number("raced_ms_after", "Raced ms after", _NEW, _race("new_ms"), ms_text, "ms"),
    _number("raced_spread_ms", "Raced spread ms", "Its quartile range", _race("spread_ms"), ms_text, "ms"),
    _words("raced_on", "Raced on", "Machine and software", _race("device")),
    _number("raced_threads", "Raced threads", "Of PyTorch", _race("threads"), count_text, dtype="Int64"),
    _number(
        "speedup",
        "Speedup",
        "Old time over new: raced, else on the best paths, else on PyTorch's own",
        attrgetter("speedup"),
        ratio_text,
        keep=95,
    ),
)
_JUDGED: tuple[Column, ...] = (
    _number(
        "weight_error",
        "Weight error",
        "||W - W'|| / ||W||, W' being the one kernel that the new layers amount to; 0 where exact",
        _error,
        error_text,
    ),
    _number(
        "output_error",
        "Output error",
        "The same of the layer's output, over the patches of the data given",
        lambda one: one.output_error,
        error_text,
    ),
    _words(
        "recommended",
        "Recommended",
        "Cheaper on paper or faster here, and not slower here",
        lambda one: one.recommended,
        dtype="bool",
    ),
    _words("objection", "Objection", "Why it is not recommended", lambda one: one.objection),
    _words("note", "Note", "What else to know about it", lambda one: one.replacement.note),
    Column(
        "best",
        "Best",
        "Of all those for its layer, the one that Proposals.best gives",
        lambda line: line.best > 0,
        show=str,
        dtype="bool",
    ),
)

COLUMNS: tuple[Column, ...] = (*_ABOUT, *_SIDE_BY_SIDE, *_SAVED, *_MEASURED, *_JUDGED)
_BY_NAME = {column.name: column for column in COLUMNS}


def _change(name: str, header: str, keep: float) -> Column:
    """Before and after; once where they are the same."""
    before, after = _BY_NAME[f"{name}_before"], _BY_NAME[f"{name}_after"]

    def get(line: ProposalLine) -> tuple[Any, Any] | None:
        both = before.get(line), after.get(line)
        return None if None in both else both

    def show(both: tuple[Any, Any]) -> str:
        a, b = map(before.show, both)
        return a if a == b else f"{a} -> {b}"

    meaning = f"{before.meaning.partition(';')[0]}: before and after"
    return replace(
        before, name=name, header=header, meaning=meaning, get=get, show=show, keep=keep, reads_as_number=True
    )


def _range(name: str, keep: float) -> Column:
    """The error of one layer, or the smallest and the largest of several."""
    column = _BY_NAME[name]

    def get(line: ProposalLine) -> tuple[float, float] | None:
        values = [column.get(ProposalLine((one,), line.total_macs)) for one in line.proposals]
        known = [value for value in values if value is not None]
        return (min(known), max(known)) if known else None

    def show(both: tuple[float, float]) -> str:
        low, high = map(error_text, both)
        return low if low == high else f"{low} to {high}"

    return replace(column, get=get, show=show, keep=keep)


def _verdict(line: ProposalLine) -> str:
    if line.best:
        count = len(line.proposals)
        return "best" if line.best == count else f"best for {line.best} of {count}"
    objection = line.first.objection
    return "" if objection is None else f"not: {objection.partition(':')[0]}"


_SEEN = (
    *(_BY_NAME[name] for name in ("name", "shape", "rule", "options", "params_ratio")),
    _change("macs", "MACs", 70),
    *(_BY_NAME[name] for name in ("macs_ratio", "macs_saved")),
    _change("activation_bytes", "Activations", 30),
    _change("depth", "Depth", 20),
    _change("nonlinearities", "Non-lin.", 10),
    _change("receptive_field", "Field", 40),
    _change("latency_ms", "Native ms", 50),
    _change("best_ms", "Best ms", 55),
    _change("raced_ms", "Raced ms", 84),
    _BY_NAME["speedup"],
    _range("weight_error", 94),
    _range("output_error", 97),
    replace(
        _BY_NAME["objection"],
        name="verdict",
        header="Verdict",
        meaning="Best, or why not",
        get=_verdict,
        keep=98,
    ),
)
SEEN = tuple(column.name for column in _SEEN)
"""What people see unasked, as far as anything is known of it."""

PEOPLE: tuple[Column, ...] = (*_SEEN, *(column for column in COLUMNS if column.name not in SEEN))
"""What people can ask for; those of `COLUMNS` that are seen otherwise have another look."""
