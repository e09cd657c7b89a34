"""Which rows a table of proposals has: layers that are alike in one, the best for a layer first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from archcost.report.columns import Column, Row
from archcost.report.proposal_columns import COLUMNS, Line, error_text

from archcost.report.grid import Entry, Grid, Head
from archcost.report.text import visible
from archcost.report.units import ratio_text, si_text

if TYPE_CHECKING:
    from archcost.rewriting.proposal import Proposal
    from archcost.rewriting.proposals import Proposals

__all__ = ["flat_lines", "folded_lines", "grid_of", "rules_grid"]

_BY_NAME = {column.name: column for column in COLUMNS}


def flat_lines(proposals: Proposals) -> list[Line]:
    """One a proposal, in the order in which they were made."""
    total = proposals.analysis.total.macs
    best = {id(one) for one in proposals.best()}
    return [Line((one,), total, int(id(one) in best)) for one in proposals]


def folded_lines(proposals: Proposals) -> list[list[Line]]:
    """By kind of layer, in order of definition: its proposals, for all layers of that kind, the best first.

    Layers are of a kind where type and convolution are the same; their proposals are one where rule, options
    and every cost and time are. Their errors, which depend on the weights, may differ. Of each rule the
    first is shown: `flat_lines` has all.
    """
    total = proposals.analysis.total.macs
    best = {id(one) for one in proposals.best()}
    kinds: dict[Any, dict[Any, list[Proposal]]] = defaultdict(lambda: defaultdict(list))
    for one in proposals:
        kinds[_kind(one)][_what(one)].append(one)
    found = []
    for alike in kinds.values():
        lines = [Line(tuple(same), total, sum(id(one) in best for one in same)) for same in alike.values()]
        found.append(_best_of_each_rule(sorted(lines, key=_rank)))
    return found


def _best_of_each_rule(lines: list[Line]) -> list[Line]:
    """The first of each rule, and whatever is the best of a layer or was timed."""
    seen: set[str] = set()
    kept = []
    for line in lines:
        if line.best or line.first.race is not None or line.first.rule not in seen:
            kept.append(line)
        seen.add(line.first.rule)
    return kept


def _kind(one: Proposal) -> Any:
    return one.type_name, one.shape, tuple((spec.input_size, spec.batch) for spec in one.old[:1])


def _what(one: Proposal) -> Any:
    seconds = None if one.race is None else (one.race.old_ms, one.race.new_ms)
    # Options that name a module that is replaced are alike where it stands at the same place.
    chains = list(one.replacement.chains)
    chosen = {
        name: chains.index(value) if isinstance(value, str) and value in chains else value
        for name, value in one.options.items()
    }
    text = (one.rule, repr(sorted(chosen.items())), one.exact, len(chains))
    return (*text, one.old, one.new, one.before, one.after, seconds, one.objection)


def _rank(line: Line) -> Any:
    """What `best_of` goes by, with what stands in the plan first."""
    one = line.first
    known = [other.error for other in line.proposals if other.error is not None]
    error = max(known) if len(known) == len(line.proposals) else float("inf")
    return (not line.best, not one.recommended, not one.exact, error, one.macs_ratio)


Show = Callable[[Line], str]


def _text(name: str) -> Show:
    return lambda line: _BY_NAME[name].text(Row(line, None))


def _change(name: str) -> Show:
    """Before and after; once where they are the same."""
    before, after = _BY_NAME[f"{name}_before"], _BY_NAME[f"{name}_after"]

    def show(line: Line) -> str:
        row = Row(line, None)
        a, b = before.text(row), after.text(row)
        if before.missing in (a, b):
            return before.missing
        return a if a == b else f"{a} -> {b}"

    return show


def _range(name: str) -> Show:
    """The error of one layer, or the smallest and the largest of several."""
    column: Column = _BY_NAME[name]

    def show(line: Line) -> str:
        values = [column.get(Row(Line((one,), line.total_macs), None)) for one in line.proposals]
        known = [value for value in values if value is not None]
        if not known:
            return column.missing
        low, high = error_text(min(known)), error_text(max(known))
        return low if low == high else f"{low} to {high}"

    return show


def _verdict(line: Line) -> str:
    if line.best:
        count = len(line.proposals)
        return "best" if line.best == count else f"best for {line.best} of {count}"
    objection = line.first.objection
    return "" if objection is None else f"not: {objection.partition(':')[0]}"


# What people see: the head, how it is read, whether numbers stand in it; columns with the lowest number go
# first where room is short.
_SHOWN: tuple[tuple[Head, Show], ...] = (
    (Head("Now", 78, right=False), _text("shape")),
    (Head("Rule", 100, right=False), _text("rule")),
    (Head("Options", 82, right=False), _text("options")),
    (Head("Params x", 60), _text("params_ratio")),
    (Head("MACs", 70), _change("macs")),
    (Head("MACs x", 96), _text("macs_ratio")),
    (Head("Saved %", 65), _text("macs_saved")),
    (Head("Activations", 30), _change("activation_bytes")),
    (Head("Depth", 20), _change("depth")),
    (Head("Non-lin.", 10), _change("nonlinearities")),
    (Head("Field", 40), _change("receptive_field")),
    (Head("Native ms", 50), _change("latency_ms")),
    (Head("Best ms", 55), _change("best_ms")),
    (Head("Raced ms", 84), _change("raced_ms")),
    (Head("Speedup", 95), _text("speedup")),
    (Head("Weight error", 94), _range("weight_error")),
    (Head("Output error", 97), _range("output_error")),
    (Head("Verdict", 98, right=False), _verdict),
)


def rules_grid(proposals: Proposals) -> Grid:
    """What each rule comes to where it is taken wherever it is recommended, as ``rewrite`` takes it."""
    heads = ["Layers", "MACs", "MACs x", "Params x", "Largest error", "Slower here"]
    rules = list(dict.fromkeys(one.rule for one in proposals))
    taken = [(rule, [one for one in proposals if one.rule == rule], proposals.best([rule])) for rule in rules]
    entries = [
        Entry(((visible(rule), ""),), _together(proposals, own, best), "" if best else "dim")
        for rule, own, best in taken
    ]
    if len(rules) > 1:
        cells = _together(proposals, list(proposals), proposals.best())
        entries.append(Entry((("The best for each layer", "bold"),), cells, "bold", total=True))
    keeps = (6, 3, 5, 2, 4, 1)
    return Grid("Rule", [Head(text, keep) for text, keep in zip(heads, keeps, strict=True)], entries)


def _together(proposals: Proposals, own: Sequence[Proposal], best: Sequence[Proposal]) -> tuple[str, ...]:
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


def grid_of(proposals: Proposals, *, repeat: bool = False) -> Grid:
    """The table for people; columns of which nothing is known are left out.

    Args:
        repeat: name the layers in every row, and not only where they change.
    """
    entries, kinds = [], folded_lines(proposals)
    for kind in kinds:
        before: tuple[str, ...] = ()
        for line in kind:
            again = line.names == before and not repeat
            cells = [show(line) for _, show in _SHOWN]
            label = () if again else _label(line)
            if again:
                cells[0] = ""
            style = "" if line.first.recommended else "dim"
            entries.append(Entry(label, tuple(cells), style))
            before = line.names
    grid = Grid("Layer", [_head(head, kinds) for head, _ in _SHOWN], entries)
    known = [i for i in range(len(_SHOWN)) if any(entry.cells[i] not in ("", "-") for entry in entries)]
    return grid.keeping([i for i in known if not _is_nothing(grid, i)])


def _head(head: Head, kinds: Sequence[Sequence[Line]]) -> Head:
    """Options stay beside the rule where they alone tell rows of one layer apart."""
    apart = any(len({line.first.rule for line in kind}) < len(kind) for kind in kinds)
    return replace(head, keep=99) if head.text == "Options" and apart else head


def _is_nothing(grid: Grid, column: int) -> bool:
    """Of non-linearities there are mostly none, anywhere."""
    return grid.heads[column].text == "Non-lin." and {entry.cells[column] for entry in grid.entries} == {"0"}


def _label(line: Line) -> tuple[tuple[str, str], ...]:
    name = (visible(line.first.name) or "(the model)", "")
    more = len(line.proposals) - 1
    return (name, (f" and {more} more", "dim")) if more else (name,)
