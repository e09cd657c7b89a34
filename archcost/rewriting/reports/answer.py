"""The first line of a report on Proposals: what the best choice comes to."""

from __future__ import annotations

from collections.abc import Sequence

from archcost.report.units import percent_text
from archcost.rewriting.proposal import Proposal
from archcost.rewriting.reports.columns import error_text
from archcost.rewriting.results import SurveyedModel

__all__ = ["answer", "factor_text"]

# Shares of the MACs within so much of a half are called half.
_ABOUT = 0.025


def answer(proposals: SurveyedModel, best: Sequence[Proposal]) -> str:
    """The share of the MACs that is left, the layers it takes, their speedup and their largest error."""
    if not best:
        return ""
    total = proposals.analysis.total.macs
    left = 1 + sum(one.after.macs - one.before.macs for one in best) / total if total else 1.0
    share = "half" if abs(left - 0.5) < _ABOUT else f"{percent_text(100 * left)} % of"
    whole = "the same MACs" if f"{left:.3f}" == "1.000" else f"{share} the MACs"
    said = ", ".join([f"{len(best)} layer{'s' * (len(best) > 1)}", _speed(best), _error(best)])
    mind = " (random weights: errors mean nothing until you load yours)" * proposals.random_weights
    return f"{whole[0].upper()}{whole[1:]}: {said}{mind}"


def factor_text(speedup: float) -> str:
    """A speedup in words: ``1.5x faster``, ``1.2x slower``."""
    word, factor = ("faster", speedup) if speedup >= 1 else ("slower", 1 / speedup)
    return "as fast as before" if factor < 1.005 else f"{factor:.3g}x {word}"


def _speed(best: Sequence[Proposal]) -> str:
    timed = [both for one in best if None not in (both := _times(one))]
    if not timed:
        return "not timed here"
    old, new = (sum(time or 0.0 for time in side) for side in zip(*timed, strict=True))
    which = "" if len(timed) == len(best) else f" ({len(timed)} of them timed)"
    return f"together {factor_text(old / new)} measured here{which}" if new else "not timed here"


def _times(one: Proposal) -> tuple[float | None, float | None]:
    """Old and new time in ms, as `Proposal.speedup` takes them."""
    if one.race is not None:
        return one.race.old_ms, one.race.new_ms
    return one.before.latency_ms, one.after.latency_ms


def _error(best: Sequence[Proposal]) -> str:
    if all(one.exact for one in best):
        return "the same outputs but for rounding"
    known = [one.error for one in best if one.error is not None]
    if len(known) < len(best):
        return "errors not computed"
    of = "outputs" if any(one.output_error is not None for one in best) else "weights"
    return f"largest error {error_text(max(known))} of a layer's {of}"
