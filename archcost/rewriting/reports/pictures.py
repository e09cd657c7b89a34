"""The pages of Proposals and of a rewritten model: what would change, what it would gain, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from archcost.analysis.reports.analysis import listings
from archcost.analysis.reports.compared import total_facts
from archcost.analysis.reports.pictures import costly, facts, pictures
from archcost.latency.reports.pictures import facts_of, pictures_of, with_inner
from archcost.report.document import Listing, Page
from archcost.report.page.parts import Fact, Measure, Pairs, Point
from archcost.report.text import visible
from archcost.report.units import percent_text, ratio_text
from archcost.rewriting.proposal import Proposal
from archcost.rewriting.reports.columns import error_text, options_of
from archcost.rewriting.results import RewrittenModel, SurveyedModel

__all__ = ["page_of", "rewritten_page"]

_MOST = 4
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
    about = (
        "The best proposal for each layer: exact, else the one with the smallest error, or the fewest MACs "
        "where errors are not known. The largest change first."
    )
    sides = ("as it is", "with the proposal")
    drawn = _pairs(best, "What would change, layer by layer?", about, sides) if best else None
    unknown = "The errors of the proposals are not known: archcost report --weights FILE computes them"
    return Page(
        warnings=[unknown] * any(one.error is None for one in best),
        facts=[*known, *_times(stored), *_gain(proposals, best)],
        costly=costly(analysis),
        advice=_advice(proposals, best),
        pictures=[*([drawn] if drawn else []), *shown],
        tables=[table, *listings(analysis)] if proposals else listings(analysis),
    )


def rewritten_page(rewritten: RewrittenModel, table: Listing) -> Page:
    """The page of a rewritten model: the totals before and after, and each new layer."""
    done = [one.proposal for one in rewritten.outcomes]
    title, about = "What changed, layer by layer?", "The largest change first."
    drawn = _pairs(done, title, about, ("before", "after"))
    found = total_facts(rewritten.before, rewritten.after)
    if rewritten.speed is not None:
        times = f"{rewritten.speed.old_ms:.3g} ms before, {rewritten.speed.new_ms:.3g} ms after"
        found.append(Fact("Measured", f"{ratio_text(rewritten.speed.speedup)} as fast", times))
    if rewritten.output_error is not None:
        error = error_text(rewritten.output_error)
        found.append(Fact("Output error", error, "max |new - old| / max |old|, on the inputs given"))
    return Page(
        facts=found,
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
    total = proposals.analysis.total
    macs, params = (
        getattr(total, name) + sum(getattr(one.after, name) - getattr(one.before, name) for one in best)
        for name in ("macs", "params")
    )
    layers = len({one.name for one in best})
    said = f"in {layers} layer{'s' * (layers != 1)}"
    if total.params:
        said += f"; {ratio_text(params / total.params)} the parameters"
    if (error := _largest_error(best)) is not None:
        said += f"; largest error {error_text(error)}"
    timed = [one for one in best if one.race is not None]
    if timed:
        old, new = (sum(getattr(one.race, name) for one in timed) for name in ("old_ms", "new_ms"))
        said += f"; measured here: {len(timed)} layers, {old:.3g} ms before, {new:.3g} ms after"
    gain = f"{ratio_text(macs / total.macs)} the MACs" if total.macs else "-"
    return [Fact("With the proposals", gain, said)]


def _largest_error(best: Sequence[Proposal]) -> float | None:
    known = [one.error for one in best if one.error is not None]
    return max(known) if known and len(known) == len(best) else None


def _advice(proposals: SurveyedModel, best: Sequence[Proposal]) -> list[Point]:
    """The best proposals that save most, those that are alike together, and how to have them."""
    alike: dict[Hashable, list[Proposal]] = defaultdict(list)
    for one in best:
        alike[one.rule, one.shape, options_of(one) if one.rule != "merge" else ""].append(one)
    total = proposals.analysis.total.macs
    order = sorted(alike.values(), key=lambda same: -sum(one.before.macs - one.after.macs for one in same))
    found = []
    for same in order[:_MOST]:
        first = same[0]
        saved = sum(one.before.macs - one.after.macs for one in same)
        head = f"{visible(first.name) or '(the model)'}" + f" and {len(same) - 1} like it" * (len(same) > 1)
        text = f"{visible(first.rule)} ({visible(options_of(first))}) in place of {visible(first.shape)}: "
        text += f"{ratio_text(first.macs_ratio)} the MACs"
        text += f", {percent_text(100 * saved / total)} % of the model's saved" * bool(total and saved > 0)
        if first.speedup is not None:
            text += f", {ratio_text(first.speedup)} as fast here"
        error = _largest_error(same)
        text += "" if error is None else ", exact" if error == 0 else f", error {error_text(error)}"
        found.append(Point(head, text, max(saved / total, 0) if total else None))
    rest = sum(map(len, order[_MOST:]))
    if rest:
        found.append(Point(f"and {rest} more", "in the table of proposals below"))
    if found:
        text = "archcost rewrite SPEC makes the model with these layers, the weights carried over"
        found.append(Point("To have it", f"{text}; archcost propose SPEC --measure times them here"))
    return found


def _pairs(chosen: Sequence[Proposal], title: str, about: str, sides: tuple[str, str]) -> Pairs:
    costs = [*_COSTS]
    if any(one.race is not None for one in chosen):
        costs.append(("Time", "", "ms"))

    def values(side: str, name: str) -> list[float | None]:
        if name:
            return [getattr(getattr(one, side), name) for one in chosen]
        of = "old_ms" if side == "before" else "new_ms"
        return [None if one.race is None else getattr(one.race, of) for one in chosen]

    return Pairs(
        title=title,
        about=about,
        sides=sides,
        names=[visible(one.name) or "(the model)" for one in chosen],
        remarks=[f"{visible(one.rule)}: {visible(options_of(one))}" for one in chosen],
        before=[Measure(name, unit, values("before", at)) for name, at, unit in costs],
        after=[Measure(name, unit, values("after", at)) for name, at, unit in costs],
    )
