"""The totals of two models with their change, and limits on them such as ``macs>+5%``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from archcost.analysis.reports.columns import MODULE_COLUMNS
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.traced import TracedModel
from archcost.errors import ArchcostError, SpecError
from archcost.report.document import Show
from archcost.report.quantity import quantity
from archcost.report.text import near
from archcost.report.units import count_text

__all__ = ["ChangeLimit", "TotalChange", "Verdict", "limit_of", "totals_of"]

_COLUMNS = {column.name: column for column in MODULE_COLUMNS}
_SHOWN = ("params", "macs", "other_ops", "peak_memory_bytes", "activation_bytes", "kept_for_backward_bytes")
# Shown where a limit is on them.
_MORE = ("flops", "trainable_params", "param_bytes")
_ALSO = {"saved_for_backward": "kept_for_backward_bytes", "activations": "activation_bytes"}
_UNITS = {"params": "parameters", "macs": "MACs", "flops": "FLOPs"}
_NAMES = (*_SHOWN, *_MORE, "depth", "nonlinearities", "receptive_field")


@dataclass(frozen=True)
class TotalChange:
    """A measure of both models; where operations could not be counted, the numbers are lower bounds."""

    name: str
    header: str
    """The name for people."""
    a: int | None
    b: int | None
    """The numbers; None where not known. The receptive field is that of its largest axis."""
    texts: tuple[str, str]
    """The numbers for people."""
    show: Show
    is_open: tuple[bool, bool] = (False, False)
    """Whether the number of a and that of b are lower bounds."""
    same_unknown: bool = False
    """Whether the same operations are not counted in both, so that the difference is exact."""

    @property
    def difference(self) -> int | None:
        """b - a; None where a side is unknown or a lower bound, unless the same is unknown in both."""
        known = not any(self.is_open) or self.same_unknown
        return None if self.a is None or self.b is None or not known else self.b - self.a

    @property
    def percent(self) -> float | None:
        """100 (b - a) / a; None where it is not known, or a is 0."""
        if self.a is None or self.b is None or not self.a or any(self.is_open):
            return None
        return 100 * (self.b - self.a) / self.a

    def bounds(self, relative: Literal["", "difference", "percent"]) -> tuple[float, float]:
        """The least and the most that b, the difference or the change in per cent can be."""
        if self.a is None or self.b is None:
            return -inf, inf
        if not relative:
            return self.b, inf if self.is_open[1] else self.b
        change = self.b - self.a
        share = 100 * change / self.a if self.a else (inf if change else 0)
        if all(self.is_open) and self.same_unknown:  # what is unknown makes the share smaller
            return (min(share, 0), max(share, 0)) if relative == "percent" else (change, change)
        low, value = (-100, share) if relative == "percent" else (-inf, change)
        return low if self.is_open[0] else value, inf if self.is_open[1] else value


@dataclass(frozen=True)
class ChangeLimit:
    """A limit on a change, as in ``macs>+5%``: beyond ``value`` it breaks the limit."""

    text: str
    measure: str
    above: bool
    """Whether more than ``value`` breaks it, or less."""
    relative: Literal["", "difference", "percent"]
    """The number that is compared: that of b, the difference or the change in per cent."""
    value: float

    @property
    def bound(self) -> str:
        """The limit in words: ``at most +5%``."""
        return f"{'at most' if self.above else 'at least'} {re.split('[<>]', self.text)[1].strip()}"

    def judge(self, total: TotalChange) -> Verdict:
        """Whether the limit holds; neither, where what is not counted decides."""
        low, high = total.bounds(self.relative)
        low, high, most = (low, high, self.value) if self.above else (-high, -low, -self.value)
        return Verdict(self, None if low <= most < high else low <= most, total)


@dataclass(frozen=True)
class Verdict:
    """A limit, and whether it holds."""

    limit: ChangeLimit
    holds: bool | None
    """None where it is not known, because operations are not counted."""
    total: TotalChange

    @property
    def text(self) -> str:
        """The verdict in words: ``macs>+5%: MACs are 4.09 G -> 4.61 G, +12.7 %``."""
        total = self.total
        change = "" if total.percent is None else f", {total.percent:+.3g} %"
        said = f"{self.limit.text}: {total.header} {' -> '.join(total.texts)}{change}"
        return said + (": not known" if self.holds is None else "")


_LIMIT = re.compile(r"\s*([A-Za-z_ ]+?)\s*(=?[<>]=?|=+)\s*([+-]?)\s*(.+?)\s*(%?)\s*")
_HOW = "write it as in 'macs>+5%', 'params>+100k', 'peak_memory>+2MB' or 'macs>4.2G', in quotes"


def limit_of(text: str) -> ChangeLimit:
    """The limit that a text states.

    Args:
        text: a measure, ``>`` (or ``<``), and a number: with a sign it is compared with the difference b - a,
            with ``%`` with the change in per cent, with neither with the number of b.

    Raises:
        SpecError: the text cannot be read; the message says how it is written.
    """
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise SpecError(f"the limit {text!r} cannot be read; {_HOW}")
    name, sign, plus, amount, percent = found.groups()
    name = name.lower().replace(" ", "_")
    measure = _ALSO.get(name, name if name in _NAMES else f"{name}_bytes")
    if measure not in _NAMES:
        raise SpecError(f"the limit {text!r}: nothing is called {name!r}{near(name, _NAMES)}")
    if sign not in ("<", ">"):
        raise SpecError(f"the limit {text!r} has {sign!r}, which is neither > nor <; {_HOW}")
    unit = "bytes" if measure.endswith("_bytes") else _UNITS.get(measure, "")
    try:
        value = quantity(amount, "" if percent else unit, what=f"the limit {text!r}")
    except ArchcostError as error:
        raise SpecError(str(error)) from error
    relative: Literal["", "difference", "percent"] = "percent" if percent else "difference" if plus else ""
    return ChangeLimit(text.strip(), measure, sign == ">", relative, -value if plus == "-" else value)


def totals_of(a: TracedModel, b: TracedModel, same_unknown: bool, more: Sequence[str]) -> list[TotalChange]:
    """The totals that people compare, those named in ``more`` among them."""
    rows = Ledger(a).row(a.total), Ledger(b).row(b.total)
    found = []
    for name in (*_SHOWN, *(name for name in _MORE if name in more)):
        column = _COLUMNS[name]
        before, after = (_whole(column.number(row)) for row in rows)
        texts = column.text(rows[0]), column.text(rows[1])
        is_open = column.lower_bound(rows[0]), column.lower_bound(rows[1])
        found.append(
            TotalChange(name, column.header, before, after, texts, column.show, is_open, same_unknown)
        )
    for name, header in (("depth", "Weighted depth"), ("nonlinearities", "Non-linear depth")):
        if name == "depth" or name in more:
            before, after = getattr(a.total, name), getattr(b.total, name)
            found.append(TotalChange(name, header, before, after, (str(before), str(after)), count_text))
    (before, text_a), (after, text_b) = _field(a), _field(b)
    if "receptive_field" in more or (before, after) != (None, None):
        found.append(
            TotalChange("receptive_field", "Receptive field", before, after, (text_a, text_b), count_text)
        )
    return found


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _field(model: TracedModel) -> tuple[int | None, str]:
    """The receptive field of the network: its largest axis, and in words."""
    fields = model.fields_or_none
    network = None if fields is None else fields.network
    if network is None:
        return None, "-"
    return max(network.local.size, default=None), network.size_text()
