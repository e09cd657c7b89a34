"""The tables of Proposals: the effect of each rule, the proposals layer by layer, and the data.

The schema of ``archcost.proposals/1``; a later version may add keys, a changed meaning gets a new number:

- ``schema``, ``archcost``, ``torch``, ``model``, ``type``, ``input``, ``inputs``, ``notes`` and
  ``uncounted`` as in ``archcost.analysis/1``.
- ``total``: ``params`` and ``macs`` of the model as it is.
- ``random_weights``: whether the weights are known to be untrained, so that errors say nothing.
- ``device``: the machine of the stored times; null where there are none.
- ``proposals``: a list of records as ``Plan.to_json`` has them: ``name``, ``rule``, ``options``, ``type``,
  ``shape``, ``exact``, ``note``, ``chains`` (the steps in the place of each replaced module, by its name),
  ``old`` and ``new`` (every convolution of a pass in the old and the new layers), ``before`` and ``after``
  (``params``,
  ``macs``, ``activation_bytes``, ``depth``, ``nonlinearities``, ``receptive_field``, ``latency_ms``,
  ``best_ms``), ``weight_error``, ``output_error``, ``race`` (null, or ``old_ms``, ``new_ms``, ``spread_ms``,
  ``speedup``, ``device``, ``threads``, ``disturbed``: whether other processes interrupted a time, which
  ``before`` and ``after`` have of stored times); and also ``macs_ratio``, ``params_ratio``, ``macs_saved``
  (in % of the model's), ``speedup``, ``recommended``, ``objection`` (null where it is recommended) and
  ``best`` (whether `Proposals.best` chooses it).
- ``skipped``: the skipped layers, a list of ``{"name", "type", "rule", "reason"}``; ``rule`` is null where
  every rule skips the layer.
- ``advice``: a list of ``{"name", "text"}``.

Costs are of one layer, all of its calls in a pass together. Times are in ms, null where not measured; none is
predicted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from archcost.analysis.reports.analysis import head
from archcost.analysis.reports.notes import heading
from archcost.report.document import Asked, Column, Document, Listing, Table, find, ordered
from archcost.report.grid import Entry
from archcost.report.text import visible
from archcost.report.units import ratio_text, si_text
from archcost.report.values import Json
from archcost.rewriting.proposal import Proposal, Skipped
from archcost.rewriting.reports.answer import answers
from archcost.rewriting.reports.columns import CHOSEN, COLUMNS, PEOPLE, SEEN
from archcost.rewriting.reports.notes import RANDOM, footnotes_of, notes_of
from archcost.rewriting.reports.pictures import page_of
from archcost.rewriting.reports.wording import ProposalRow, error_text
from archcost.rewriting.results import SurveyedModel

__all__ = ["SCHEMA", "document_of", "skipped_records"]

SCHEMA = "archcost.proposals/1"
_ADDED = ("params_ratio", "macs_ratio", "macs_saved", "speedup", "recommended", "objection", "best")
_LARGEST = "macs_saved"
# Rows of the choice.
_MOST = 20
_ON_PAGE = (
    *("rule", "macs_ratio", "weight_error", "output_error", "speedup", "verdict", "options", "shape"),
    "macs_saved",
)
_EACH = "The best for each layer"


def document_of(proposals: SurveyedModel, asked: Asked) -> Document:
    """The answer, and the choice layer by layer; rules and candidates are details; as data every proposal."""
    asked.without_depth("a table of proposals")
    chosen = proposals.best()
    best = {id(one) for one in chosen}
    macs = proposals.analysis.total.macs
    lines = [ProposalRow((one,), macs, int(id(one) in best), proposals.ratio) for one in proposals]
    rows = ordered(lines, COLUMNS, asked, _LARGEST)
    data = Table("proposals", COLUMNS, lambda: rows)
    if asked.is_flat:
        kinds = [[line] for line in rows]
        said = f"{len(rows)} of {len(proposals)}, by {find(asked.sort or _LARGEST, COLUMNS).header}"
    else:
        kinds = _folded(proposals, proposals, best)
        said = "the best proposal of each rule for a layer, and all that were timed"
    # Where all were timed, or in a list, the options alone tell rows of one layer apart.
    several = any(len({line.first.rule for line in kind}) < len(kind) for kind in kinds)
    apart = asked.is_flat or (several and any(one.race is not None for one in proposals))
    bends = any(one.before.nonlinearities or one.after.nonlinearities for one in proposals)
    seen = Table(
        "proposals",
        [replace(column, keep=99) if apart and column.name == "options" else column for column in PEOPLE],
        lambda: rows,
        shown=[name for name in SEEN if bends or name != "nonlinearities"],
        lines=partial(_lines, kinds),
        only_known=True,
        title=("Candidates", said),
    )
    first = seen if asked.is_flat or not chosen else _choice(proposals, chosen, seen)
    rules = _rules(proposals)
    return Document(
        schema=SCHEMA,
        warning=RANDOM if proposals.random_weights else None,
        headings=[heading(proposals.analysis)],
        tables=[data],
        shown=[first] if lines else [],
        record=partial(_record, proposals, asked, data),
        lines=answers(proposals, chosen),
        notes=partial(notes_of, proposals, chosen, asked.full),
        details=[rules, *([] if first is seen else [seen])] if lines else [],
        footnotes=partial(footnotes_of, proposals),
        folded=f"All {len(proposals)} proposals, and why layers are left as they are",
        more="archcost propose --all, or full=True, shows every rule, and why layers are left as they are",
        page=lambda: page_of(proposals, Listing(data, _ON_PAGE)),
    )


def _choice(
    proposals: SurveyedModel, chosen: Sequence[Proposal], like: Table[ProposalRow]
) -> Table[ProposalRow]:
    """The table of the best proposals, a row for layers that are alike; of many rows those that save most."""
    rows = [row for kind in _folded(chosen, proposals, set(map(id, chosen))) for row in kind]
    saved = {id(row): sum(one.before.macs - one.after.macs for one in row.proposals) for row in rows}
    most = set(sorted(saved, key=lambda row: -saved[row])[:_MOST])
    left = [one for row in rows if id(row) not in most for one in row.proposals]

    def entries(columns: Sequence[Column]) -> list[Entry]:
        found = _lines([[row] for row in rows if id(row) in most], columns)
        if left:
            rest = ProposalRow(tuple(left), proposals.analysis.total.macs)
            cells = tuple(c.text(rest) if c.name == "macs_saved" else "" for c in columns)
            found.append(Entry(((f"({len(left)} others)", "dim"),), cells))
        return found

    return replace(like, name="choice", shown=CHOSEN, lines=entries, title=None)


def _lines(kinds: Sequence[Sequence[ProposalRow]], columns: Sequence[Column]) -> list[Entry]:
    """The table's rows, a layer's name and shape only in its first."""
    entries = []
    for kind in kinds:
        before: tuple[str, ...] = ()
        for line in kind:
            again = line.names == before
            cells = tuple("" if again and column.name == "shape" else column.text(line) for column in columns)
            label = () if again else _label(line)
            entries.append(Entry(label, cells, "" if line.first.recommended else "dim"))
            before = line.names
    return entries


def _label(line: ProposalRow) -> tuple[tuple[str, str], ...]:
    name = (visible(line.first.name) or "(the model)", "")
    more = len(line.proposals) - 1
    return (name, (f" and {more} more", "dim")) if more else (name,)


def _folded(given: Iterable[Proposal], proposals: SurveyedModel, best: set[int]) -> list[list[ProposalRow]]:
    """The table's rows grouped by kind of layer, in order of definition, the best first.

    Layers of the same type and convolution are of a kind; their proposals share a row where rule, options,
    costs and times are the same, whatever their errors. Each rule has its first row only; data have all.
    """
    total = proposals.analysis.total.macs
    kinds: dict[Hashable, dict[Hashable, list[Proposal]]] = defaultdict(lambda: defaultdict(list))
    for one in given:
        kinds[_kind(one)][_what(one)].append(one)
    found = []
    for alike in kinds.values():
        lines = [
            ProposalRow(tuple(same), total, sum(id(one) in best for one in same), proposals.ratio)
            for same in alike.values()
        ]
        found.append(_best_of_each_rule(sorted(lines, key=_rank)))
    return found


def _best_of_each_rule(lines: list[ProposalRow]) -> list[ProposalRow]:
    """The first row of each rule, and all rows that are a layer's best or were timed."""
    seen: set[str] = set()
    kept = []
    for line in lines:
        if line.best or line.first.race is not None or line.first.rule not in seen:
            kept.append(line)
        seen.add(line.first.rule)
    return kept


def _kind(one: Proposal) -> Hashable:
    return one.type_name, one.shape, tuple((spec.input_size, spec.batch) for spec in one.old[:1])


def _what(one: Proposal) -> Hashable:
    seconds = None if one.race is None else (one.race.old_ms, one.race.new_ms)
    # Options that name a module that is replaced are alike where it stands at the same place.
    chains = list(one.replacement.chains)
    chosen = {
        name: chains.index(value) if isinstance(value, str) and value in chains else value
        for name, value in one.options.items()
    }
    text = (one.rule, repr(sorted(chosen.items())), one.exact, len(chains))
    return (*text, one.old, one.new, one.before, one.after, seconds, one.objection)


def _rank(line: ProposalRow) -> tuple[bool, bool, bool, float, float]:
    """The sort key of rows, as in `best_of`, with chosen proposals first."""
    one = line.first
    known = [other.error for other in line.proposals if other.error is not None]
    error = max(known) if len(known) == len(line.proposals) else float("inf")
    return (not line.best, not one.recommended, not one.exact, error, one.macs_ratio)


def _rules(proposals: SurveyedModel) -> Table:
    """The table of rules: the model's totals where ``rewrite`` takes that rule alone."""
    heads = {"Layers": 6, "MACs": 3, "MACs x": 5, "Params x": 2, "Largest error": 4, "Slower here": 1}
    rules = list(dict.fromkeys(one.rule for one in proposals))
    lines, styles = {}, {}
    for rule in rules:
        own, best = [one for one in proposals if one.rule == rule], proposals.best([rule])
        lines[visible(rule)], styles[visible(rule)] = _together(proposals, own, best), "dim" * (not best)
    if len(rules) > 1:
        lines[_EACH], styles[_EACH] = _together(proposals, proposals, proposals.best()), "bold"

    def entries(columns: Sequence[Column]) -> list[Entry]:
        cells = {row[0]: tuple(column.text(row) for column in columns) for row in lines.items()}
        return [Entry(((k, ""),), cells[k], styles[k], total=k == _EACH) for k in lines]

    return replace(Table.of_texts("rules", "Rule", heads, lines), lines=entries)


def _together(proposals: SurveyedModel, own: Sequence[Proposal], best: Sequence[Proposal]) -> tuple[str, ...]:
    total = proposals.analysis.total
    macs, params = (
        getattr(total, name) + sum(getattr(one.after, name) - getattr(one.before, name) for one in best)
        for name in ("macs", "params")
    )
    errors = [one.error for one in best]
    known = [error for error in errors if error is not None]
    slower = sum(one.speedup is not None and one.speedup < 1 and not one.recommended for one in own)
    timed = sum(one.speedup is not None for one in own)
    return (
        f"{len(best)} of {len({one.name for one in own})}",
        si_text(macs),
        ratio_text(macs / total.macs) if total.macs else "-",
        ratio_text(params / total.params) if total.params else "-",
        error_text(max(known)) if known and len(known) == len(errors) else "-",
        f"{slower} of {timed}" if timed else "-",
    )


def _record(proposals: SurveyedModel, asked: Asked, table: Table) -> dict[str, Json]:
    from archcost.rewriting.plan.plan_json import proposal_record

    analysis = proposals.analysis
    about = head(analysis)
    about.pop("device")  # of the pass on paper; the one below is that of the times
    added = table.for_data(Asked(columns=_ADDED if asked.columns is None else asked.columns))
    of = proposal_record if asked.columns is None else lambda one: {}
    return {
        **about,
        "notes": (*analysis.notes, *proposals.notes),
        "total": {"params": analysis.total.params, "macs": analysis.total.macs},
        "random_weights": proposals.random_weights,
        "device": proposals.device,
        "proposals": [
            {**of(line.first), **{column.name: column.get(line) for column in added}} for line in table.rows()
        ],
        "skipped": skipped_records(proposals.skipped),
        "advice": [{"name": one.name, "text": one.text} for one in proposals.advice],
    }


def skipped_records(skipped: Iterable[Skipped]) -> list[dict[str, str | None]]:
    return [
        {"name": one.name, "type": one.type_name, "rule": one.rule, "reason": one.reason} for one in skipped
    ]
