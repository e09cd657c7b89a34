"""The tables of Rewritten: totals before and after, every new layer with its errors, skipped layers.

The schema of ``archcost.rewritten/1``; a later version may add keys, a changed meaning gets a new number:

- ``schema``, ``archcost``, ``torch``, ``model``, ``type``, ``input``, ``inputs``, ``device``, ``notes`` and
  ``uncounted`` as in ``archcost.analysis/1``, of the model as it was.
- ``before`` and ``after``: the totals of the old and the new model, as ``total`` there.
- ``output_error``: max |new - old| / max |old| of the outputs on the inputs given; null where the model was
  changed in place.
- ``speed``: null, or ``old_ms``, ``new_ms``, ``spread_ms``, ``speedup``, ``device``, ``threads`` and
  ``disturbed``: old and new model timed in turns, and whether other processes interrupted it.
- ``outcomes``: a list, each new layer with every column of `COLUMNS` by its name, or those asked for.
- ``skipped``: a list of ``{"name", "type", "rule", "reason"}``: layers that a rule skipped, or rewrote
  without fitting them to the data.
- ``plan``: the plan, as ``plan.to_json()`` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from archcost.analysis.reports.analysis import head, total_of
from archcost.analysis.reports.columns import MODULE_COLUMNS
from archcost.analysis.reports.notes import heading
from archcost.analysis.reports.rows import Ledger
from archcost.latency.timing.thresholds import NOISE, UNRELIABLE
from archcost.report.columns import Look
from archcost.report.document import Asked, Column, Document, Listing, Table, find, ordered
from archcost.report.grid import Grid
from archcost.report.notes import Explanations, explained, signs
from archcost.report.text import visible
from archcost.report.units import ratio_text
from archcost.report.values import Cell, Json
from archcost.rewriting.reports import columns as of_proposals
from archcost.rewriting.reports.notes import skipped_notes
from archcost.rewriting.reports.pictures import rewritten_page
from archcost.rewriting.reports.proposals import skipped_records
from archcost.rewriting.reports.wording import ProposalRow, error_text, ms_text
from archcost.rewriting.results import RewrittenModel

if TYPE_CHECKING:
    from archcost.rewriting.plan.applying import Outcome
    from archcost.rewriting.proposal import Raced

__all__ = ["COLUMNS", "SCHEMA", "document_of"]

SCHEMA = "archcost.rewritten/1"
_TOTALS = ("params", "macs", "other_ops", "param_bytes", "activation_bytes", "peak_memory_bytes")
_ON_PATH = {"depth": "Weighted depth", "nonlinearities": "Non-linearities"}
_UNITS = (
    "MACs are of one layer, all of its calls in a forward pass; x is new over old; 1 MAC is one "
    "multiply-accumulate, "
    "1 MB is 10^6 bytes"
)
_ERRORS: Explanations = (
    (
        "weights: ||W - W'|| / ||W||, W' the kernel that the new layers compose to",
        ("Error of weights",),
    ),
    (
        "data: relative error of the layer's output over the calibration data, before and after the refit of "
        "its last stage",
        ("Error on data", "after refit"),
    ),
    (
        "input: max |new - old| / max |old| of the layer's output for the inputs given",
        ("Error on input",),
    ),
)


@dataclass(frozen=True)
class OutcomeRow(ProposalRow):
    """A row of the table: a proposal that was carried out, and its outcome."""

    outcome: Outcome = field(kw_only=True)


def _outcome(
    name: str, header: str, meaning: str, of: Callable[[Outcome], float | None], keep: float
) -> Column[OutcomeRow]:
    more: Look = {"show": error_text, "dtype": "Float64", "missing": "-", "keep": keep}
    return Column(name, header, meaning, lambda layer: of(layer.outcome), **more)


def _on_data(outcome: Outcome) -> float | None:
    return outcome.proposal.output_error if outcome.refitted is None else outcome.refitted[0]


_REFIT = "Relative error of the layer's output over the calibration data, {} the refit of its last stage"
_OUTCOME = (
    _outcome("error_on_data", "Error on data", _REFIT.format("before"), _on_data, 85),
    _outcome(
        "error_after_refit",
        "after refit",
        _REFIT.format("after"),
        lambda outcome: None if outcome.refitted is None else outcome.refitted[1],
        95,
    ),
    _outcome(
        "error_on_input",
        "Error on input",
        "max |new - old| / max |old| of the layer's output for the inputs given",
        lambda outcome: outcome.error,
        80,
    ),
)
_UNFITTED: Column[OutcomeRow] = Column(
    "unfitted",
    "Not fitted",
    "Why the layer is not fitted to the calibration data",
    lambda layer: layer.outcome.unfitted,
    show=str,
    dtype="str",
    missing="",
)
COLUMNS: tuple[Column, ...] = (
    *(one for one in of_proposals.COLUMNS if one.name not in ("best", "verdict")),
    *_OUTCOME,
    _UNFITTED,
)
_HEADERS = {"name": "New layer", "shape": "Was", "weight_error": "Error of weights"}
_KEEP = {"shape": 60, "options": 70, "macs": 50, "macs_ratio": 90, "weight_error": 65, "speedup": 75}
_ON_PAGE = [replace(one, header=_HEADERS.get(one.name, one.header)) for one in COLUMNS]
_PEOPLE: tuple[Column, ...] = (
    *(
        replace(one, header=_HEADERS.get(one.name, one.header), keep=_KEEP.get(one.name, one.keep))
        for one in of_proposals.PEOPLE
        if one.name not in ("best", "verdict")
    ),
    *_OUTCOME,
    _UNFITTED,
)
_SEEN = (
    *("name", "shape", "rule", "options", "macs", "macs_ratio", "weight_error"),
    *("error_on_data", "error_after_refit", "error_on_input", "speedup"),
)


def document_of(rewritten: RewrittenModel, asked: Asked) -> Document:
    """A table of totals and a table of new layers; as data a row for each new layer."""
    asked.without_depth("a table of new layers")
    macs = rewritten.before.total.macs
    layers = [OutcomeRow((one.proposal,), macs, outcome=one) for one in rewritten.outcomes]
    rows = ordered(layers, COLUMNS, asked, "macs_saved")
    data = Table("layers", COLUMNS, lambda: rows)
    seen = replace(data, columns=_PEOPLE, shown=_SEEN, only_known=True)
    name, rest = heading(rewritten.before)
    return Document(
        schema=SCHEMA,
        headings=[(f"{name}, rewritten", rest)],
        tables=[data],
        shown=[_totals(rewritten), *([seen] if rows else [])],
        record=partial(_record, rewritten, asked, data),
        notes=partial(_notes, rewritten),
        page=lambda: rewritten_page(rewritten, Listing(replace(data, columns=_ON_PAGE), _SEEN)),
    )


def _totals(rewritten: RewrittenModel) -> Table:
    """The table of totals, a row for each cost: before, after, ratio."""
    sides = (rewritten.before, rewritten.after)
    rows = [Ledger(side).row(side.total) for side in sides]
    lines = {}
    for column in (find(name, MODULE_COLUMNS) for name in _TOTALS):
        values = [None if column.lower_bound(row) else column.get(row) for row in rows]
        lines[column.header] = (*map(column.text, rows), _ratio(*values))
    for name, header in _ON_PATH.items():
        values = [getattr(side.total, name) for side in sides]
        lines[header] = (*map(str, values), _ratio(*values))
    return Table.of_texts("totals", "Total", {"Before": 3, "After": 2, "x": 1}, lines)


def _ratio(before: Cell, after: Cell) -> str:
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return "?"
    if not before:
        return "1x" if not after else "-"
    return ratio_text(after / before)


def _record(rewritten: RewrittenModel, asked: Asked, table: Table) -> dict[str, Json]:
    from archcost.rewriting.plan.plan_json import plan_record

    columns = table.for_data(asked)
    return {
        **head(rewritten.before),
        "notes": (*rewritten.before.notes, *rewritten.notes),
        "before": total_of(rewritten.before),
        "after": total_of(rewritten.after),
        "output_error": rewritten.output_error,
        "speed": None if rewritten.speed is None else asdict(rewritten.speed),
        "outcomes": [{column.name: column.get(row) for column in columns} for row in table.rows()],
        "skipped": skipped_records(rewritten.skipped),
        "plan": plan_record(rewritten.plan),
    }


def _notes(rewritten: RewrittenModel, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """Notes as ``(title, text)`` in plain text, warnings first."""
    errors = explained(_ERRORS, grids)
    notes = [("Slower", text) for text in _slower(rewritten)]
    if not rewritten.outcomes:
        notes.append(("Rewritten", "no layer; the model is unchanged"))
    error = rewritten.output_error
    if error is None:
        notes.append(("Output", "not compared: the model was changed in place"))
    else:
        text = (
            f"max |new - old| / max |old| is {error_text(error)} on the analysed inputs, before any training"
        )
        notes.append(("Output", text))
    if rewritten.speed is not None:
        notes.append(("Speed", _speed(rewritten.speed)))
    new = {name for one in rewritten.outcomes for name in one.proposal.replacement.chains}
    notes += skipped_notes(one for one in rewritten.skipped if one.name not in new)
    if errors:
        notes.append(("Errors", errors))
    notes += [("Units", _UNITS), *signs(grids)]
    said = (*rewritten.before.notes, *rewritten.notes)
    return notes + [("Note", visible(note)) for note in said if note]


def _slower(rewritten: RewrittenModel) -> list[str]:
    found = []
    speed = rewritten.speed
    if speed is not None and speed.speedup < 1 - NOISE and not _disagree(speed):
        found.append(
            f"the new model takes {ms_text(speed.new_ms)} ms on this machine, the old one "
            f"{ms_text(speed.old_ms)} ms"
        )
    for outcome in rewritten.outcomes:
        one = outcome.proposal
        if one.speedup is not None and one.speedup < 1 - NOISE:
            found.append(f"{visible(one.name)} by {visible(one.rule)} is {one.objection}")
    return found


def _disagree(speed: Raced) -> bool:
    """Whether the rounds and the medians disagree on which model is faster."""
    return (speed.speedup < 1) != (speed.new_ms > speed.old_ms)


def _speed(speed: Raced) -> str:
    doubt = (
        "; unreliable: rounds and medians disagree on which is faster, as on a busy machine: time them again"
        * _disagree(speed)
    )
    doubt += f"; {UNRELIABLE}" * speed.disturbed
    threads = f"{speed.threads} thread{'s' * (speed.threads != 1)}"
    spread = "unknown" if speed.spread_ms is None else ms_text(speed.spread_ms)
    return (
        f"{ratio_text(speed.speedup)} as fast: {ms_text(speed.old_ms)} ms before, {ms_text(speed.new_ms)} ms "
        f"after (spread {spread}), medians of old and new model run in turns; {threads}, "
        f"{visible(speed.device)}{doubt}"
    )
