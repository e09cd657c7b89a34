"""The pages of Proposals and of a rewritten model: what would change, what it would gain, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from archcost.analysis.reports.analysis import listings
from archcost.analysis.reports.commands import command_text, is_spec
from archcost.analysis.reports.compared import total_facts
from archcost.analysis.reports.pictures import costly, facts, pictures
from archcost.latency.reports.pictures import costly_of, facts_of, faster_paths, pictures_of, with_inner
from archcost.latency.timing.thresholds import UNRELIABLE
from archcost.report.document import Listing, Page
from archcost.report.page.parts import THIS_FILE, Fact, Measure, Pairs, Point
from archcost.report.text import visible
from archcost.report.units import ms_text, percent_text, ratio_text, si_text
from archcost.rewriting.proposal import Proposal
from archcost.rewriting.reports.answer import change_of, loss_text, measured_text, share_text, where_text
from archcost.rewriting.reports.notes import RANDOM
from archcost.rewriting.reports.wording import error_text, options_of
from archcost.rewriting.results import RewrittenModel, SurveyedModel

__all__ = ["page_of", "rewritten_page"]

_MOST = 4
_AGAIN = "its layers in a copy of the old model; then load the state dict that was saved with it"
_BUILDING = f"archcost.load_result({THIS_FILE}).plan.apply(model, weights=False)"
_BEST = (
    "The best proposal for each layer, alike ones together: an exact one that saves MACs, else the one with "
    "the smallest error, or, where errors are not known, with the MACs closest to those asked for."
)
_ORDER = "The largest change first."
_LOSS = "Accuracy suffers without retraining, and by how much is not known"
_COSTS = (
    ("MACs", "macs", "MACs"),
    ("Parameters", "params", "parameters"),
    ("Activation memory", "activation_bytes", "bytes"),
)


def page_of(proposals: SurveyedModel, table: Listing) -> Page:
    """The page of Proposals: that of the Analysis, with what to change first."""
    analysis, best, timed = proposals.analysis, proposals.best(), proposals.timed
    stored = _stored(proposals) if timed is None else []
    known = facts(analysis) if timed is None else facts_of(timed, analysis)
    shown = pictures(analysis, *stored) if timed is None else pictures_of(timed, analysis)
    sides = ("as it is", "with the proposal")
    drawn = _pairs(best, "What would change, layer by layer?", f"{_BEST} {_ORDER}", sides) if best else None
    computed = command_text(analysis, "report", "--weights FILE", "-o new.html")
    unknown = f"{_LOSS}: {computed} computes the errors of the new layers with your weights"
    is_unknown = any(one.error is None for one in best)
    # Errors that are not known mean nothing whatever the weights.
    untrained = bool(best) and proposals.random_weights and not is_unknown
    return Page(
        warnings=[*[unknown] * is_unknown, *[": ".join(RANDOM)] * untrained],
        facts=[*known, *_times(stored), *_gain(proposals, best)],
        costly=costly(analysis) if timed is None else costly_of(timed),
        advice=_advice(proposals, best),
        lines=(),  # The answer is among the facts.
        pictures=[*([drawn] if drawn else []), *shown],
        tables=[table, *listings(analysis)] if proposals else listings(analysis),
    )


def rewritten_page(rewritten: RewrittenModel, table: Listing) -> Page:
    """The page of a rewritten model: the totals before and after, and each new layer."""
    done = [one.proposal for one in rewritten.outcomes]
    about = f"Layers that changed alike together. {_ORDER}"
    drawn = _pairs(done, "What changed, layer by layer?", about, ("before", "after"))
    found = total_facts(rewritten.before, rewritten.after)
    if rewritten.speed is not None:
        times = f"{rewritten.speed.old_ms:.3g} ms before, {rewritten.speed.new_ms:.3g} ms after"
        times += f"; {UNRELIABLE}" * rewritten.speed.disturbed
        found.append(Fact("Measured", f"{ratio_text(rewritten.speed.speedup)} as fast", times))
    if rewritten.output_error is not None:
        error = error_text(rewritten.output_error)
        found.append(Fact("Output error", error, "max |new - old| / max |old|, on the inputs given"))
    return Page(
        facts=found,
        costly=costly(rewritten.after),
        costly_title="What costs most now",
        advice=[Point("To build it again", _AGAIN, command=_BUILDING)] * bool(done),
        pictures=[drawn] * bool(done),
        tables=[table],
    )


def _stored(proposals: SurveyedModel) -> list[Measure]:
    """The stored times of the convolutions by module, those of inner modules included; empty without any."""
    own: dict[str, Proposal] = {}
    for one in proposals:
        held = own.get(one.name)
        if one.before.latency_ms is None:
            continue
        # The fewest modules together: a time of several is not that of the first.
        if held is None or len(one.replacement.chains) < len(held.replacement.chains):
            own[one.name] = one
    if not own:
        return []
    names = [cost.name for cost in proposals.analysis.modules]
    times = {name: one.before.latency_ms or 0.0 for name, one in own.items()}
    return [Measure("Stored time", "ms", with_inner(times, names))]


def _times(stored: Sequence[Measure]) -> list[Fact]:
    of = "of the convolutions that the store has, alone on this machine, on PyTorch's own path"
    return [Fact("Stored time", f"{one.values[0]:.3g} ms", of) for one in stored]


def _gain(proposals: SurveyedModel, best: Sequence[Proposal]) -> list[Fact]:
    if not best:
        return []
    macs, params = (change_of(proposals, best, name) for name in ("macs", "params"))
    layers = f"{len(best)} layer{'s' * (len(best) > 1)}"
    said = [f"{share_text(*macs)}: {layers}", measured_text(best)]
    if params[0]:
        said.append(f"parameters {si_text(params[0])} → {si_text(params[1])}")
    said.append(loss_text(best))
    text = " → ".join(map(si_text, dict.fromkeys(macs)))
    return [Fact("With the proposals", f"{text} MACs", ", ".join(said))]


def _largest_error(best: Sequence[Proposal]) -> float | None:
    known = [one.error for one in best if one.error is not None]
    return max(known) if known and len(known) == len(best) else None


def _advice(proposals: SurveyedModel, best: Sequence[Proposal]) -> list[Point]:
    """The best proposals that save most, those that are alike together, and how to have them.

    Where the model was measured, those come first whose layers take most time, after the faster paths that
    lose nothing. Before them what no proposal changes, where that has most of the cost.
    """
    analysis, times = proposals.analysis, _own_times(proposals)
    macs, whole = analysis.total.macs, 0.0
    if proposals.timed is not None and proposals.timed.context is not None:
        whole = 1e3 * proposals.timed.context.end_to_end.median_s

    def share(same: Sequence[Proposal]) -> float:
        if whole:
            return sum(times.get(name, 0.0) for one in same for name in one.replacement.chains) / whole
        return sum(one.before.macs - one.after.macs for one in same) / macs if macs else 0.0

    order = sorted(_alike(best), key=lambda same: -share(same))
    where = where_text(proposals)
    found = [Point("Most of the cost is elsewhere", where)] if where else []
    faster = None if proposals.timed is None else faster_paths(proposals.timed)
    program = command_text(analysis, "accelerate")
    if faster is not None and whole:
        found.append(
            Point("Every convolution by its fastest path", faster[0], min(faster[1] / whole, 1), program)
        )
    for same in order[:_MOST]:
        first = same[0]
        saved = sum(one.before.macs - one.after.macs for one in same)
        text = f"{visible(first.rule)} ({visible(options_of(first))}) in place of {visible(first.shape)}: "
        text += _saving(first, saved, macs)
        if whole:
            text += (
                f"; now {ms_text(whole * share(same))} ms, {percent_text(100 * share(same))} % of the time"
            )
        if first.speedup is not None:
            doubt = f" ({UNRELIABLE})" * any(one.disturbed for one in same)
            text += f", {ratio_text(first.speedup)} as fast here{doubt}"
        error = _largest_error(same)
        text += "" if error is None else ", exact" if error == 0 else f", error {error_text(error)}"
        notes = dict.fromkeys(one.replacement.note for one in same if one.replacement.note)
        # The note of a layout has the times of a single layer.
        text += "".join(f"; {visible(note)}" for note in notes if first.rule != "layout")
        found.append(Point(_names(same), text, max(min(share(same), 1), 0) if macs else None))
    rest = sum(map(len, order[_MOST:]))
    if rest:
        found.append(Point(f"and {rest} more", "in the table of proposals below"))
    if order:
        text = "the model with these layers, their weights made of the old ones (yours with --weights FILE)"
        found.append(Point("To have it", text, command=_rewriting(proposals)))
        text = "old and new layers in turns, on this machine"
        found.append(Point("To time them", text, command=command_text(analysis, "propose", "--measure")))
    text = "the same model and weights as one program, timed against it"
    return [*found, *[Point("Faster as it is", text, command=program)] * (faster is None or not whole)]


def _own_times(proposals: SurveyedModel) -> dict[str, float]:
    """Milliseconds that each module itself takes in a pass, where the model was measured."""
    found: dict[str, float] = defaultdict(float)
    if proposals.timed is not None and proposals.timed.context is not None:
        for call in proposals.timed.context.calls:
            found[call.name] += 1e3 * call.median_s
    return found


def _rewriting(proposals: SurveyedModel) -> str:
    """What makes the model with the best proposals of the file in which the page is."""
    if is_spec(proposals.analysis.name):
        return command_text(proposals.analysis, "rewrite", f"--proposals {THIS_FILE}", "-o new.pt")
    return f"archcost.rewrite(model, choices=archcost.load_result({THIS_FILE}).best()).model"


def _alike(chosen: Sequence[Proposal]) -> list[list[Proposal]]:
    """Proposals by the same rule for layers of the same kind together."""
    found: dict[Hashable, list[Proposal]] = defaultdict(list)
    for one in chosen:
        options = options_of(one) if one.rule != "merge" else ""
        found[one.rule, one.shape, options, one.before.macs, one.after.macs].append(one)
    return list(found.values())


def _names(same: Sequence[Proposal]) -> str:
    name = visible(same[0].name) or "(the model)"
    return name + f" and {len(same) - 1} like it" * (len(same) > 1)


def _saving(one: Proposal, saved: int, total: int) -> str:
    """The MACs that a layer, and all that are like it together, save of their own and of the model's."""
    if one.after.macs == one.before.macs:
        return "the same MACs"
    if saved < 0 or not total:
        return f"{ratio_text(one.macs_ratio)} its MACs"
    own = percent_text(100 * (1 - one.macs_ratio))
    return f"saves {own} % of its MACs, {percent_text(100 * saved / total)} % of the model's"


def _pairs(chosen: Sequence[Proposal], title: str, about: str, sides: tuple[str, str]) -> Pairs:
    kinds = _alike(chosen)
    costs = [*_COSTS]
    if any(one.race is not None for one in chosen):
        costs.append(("Time", "", "ms"))

    def values(side: str, name: str) -> list[float | None]:
        if name:
            return [sum(getattr(getattr(one, side), name) for one in same) for same in kinds]
        of = "old_ms" if side == "before" else "new_ms"
        races = [[one.race for one in same] for same in kinds]
        return [None if None in each else sum(getattr(one, of) for one in each) for each in races]

    return Pairs(
        title=title,
        about=about,
        sides=sides,
        names=list(map(_names, kinds)),
        remarks=[f"{visible(one.rule)}: {visible(options_of(one))}" for one, *_ in kinds],
        before=[Measure(name, unit, values("before", at)) for name, at, unit in costs],
        after=[Measure(name, unit, values("after", at)) for name, at, unit in costs],
    )
