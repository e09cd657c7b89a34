"""The first lines of a report on Proposals: what the best choice comes to, and what it cannot change."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose

from archcost.analysis.reports.notes import elsewhere
from archcost.latency.timing.thresholds import UNRELIABLE
from archcost.report.units import percent_text, si_text
from archcost.rewriting.proposal import Proposal
from archcost.rewriting.reports.wording import error_text
from archcost.rewriting.results import SurveyedModel

__all__ = [*("answers", "change_of", "factor_text", "loss_text", "measured_text", "share_text", "where_text")]

# Shares of the MACs within so much of a half are called half.
_ABOUT = 0.025
# An error beyond which accuracy suffers.
_SMALL = 0.01
_RETRAIN = "accuracy suffers until retrained"


def answers(proposals: SurveyedModel, best: Sequence[Proposal]) -> list[str]:
    """The MACs that are saved, the layers it takes, their speedup and largest error; and other costs."""
    where = where_text(proposals)
    lines = [f"Where the cost is: {where}"] if where else []
    if not best:
        return lines
    before, after = change_of(proposals, best, "macs")
    change = share_text(before, after)
    if si_text(before) != si_text(after):
        change += f" ({si_text(before)} -> {si_text(after)})"
    said = [f"{len(best)} layer{'s' * (len(best) > 1)}", measured_text(best), loss_text(best)]
    return [f"{change[0].upper()}{change[1:]}: {', '.join(said)}", *lines]


def where_text(proposals: SurveyedModel) -> str:
    """The operations that have most of the MACs, where rules, which replace convolutions, leave them."""
    found = elsewhere(proposals.analysis)
    return found and f"{found}; the rules replace convolutions only"


def change_of(proposals: SurveyedModel, best: Sequence[Proposal], name: str) -> tuple[int, int]:
    """A total of the model, before and after the proposals."""
    total = getattr(proposals.analysis.total, name)
    return total, total + sum(getattr(one.after, name) - getattr(one.before, name) for one in best)


def share_text(before: int, after: int) -> str:
    """The change in words: ``half the MACs saved``, ``34.2 % of the MACs saved``, ``3 % more MACs``."""
    if isclose(before, after, rel_tol=5e-4):
        return "no MACs saved"
    saved = 1 - after / before
    if saved < 0:
        return f"{percent_text(-100 * saved)} % more MACs"
    return f"{'half' if abs(saved - 0.5) < _ABOUT else f'{percent_text(100 * saved)} % of'} the MACs saved"


def factor_text(speedup: float) -> str:
    """A speedup in words: ``1.5x faster``, ``1.2x slower``."""
    word, factor = ("faster", speedup) if speedup >= 1 else ("slower", 1 / speedup)
    return "as fast as before" if factor < 1.005 else f"{factor:.3g}x {word}"


def measured_text(best: Sequence[Proposal]) -> str:
    """The new layers' times in words: ``together 1.5x faster measured here (3 of them timed)``."""
    timed = [both for one in best if None not in (both := _times(one))]
    old, new = (sum(one[side] or 0.0 for one in timed) for side in (0, 1))
    if not new:
        return "speed not measured"
    aside = [f"{len(timed)} of them timed"] * (len(timed) < len(best))
    aside += [UNRELIABLE] * any(one.disturbed for one in best)
    return f"together {factor_text(old / new)} measured here" + f" ({'; '.join(aside)})" * bool(aside)


def _times(one: Proposal) -> tuple[float | None, float | None]:
    """Old and new time in ms, as `Proposal.speedup` takes them."""
    if one.race is not None:
        return one.race.old_ms, one.race.new_ms
    return one.before.latency_ms, one.after.latency_ms


def loss_text(best: Sequence[Proposal]) -> str:
    """What the proposals lose in words: the largest error, and that it takes training to make up for it."""
    if all(one.exact for one in best):
        return "the same outputs but for rounding"
    known = [one.error for one in best if one.error is not None]
    if len(known) < len(best):
        return f"errors not computed ({_RETRAIN})"
    of = "outputs" if any(one.output_error is not None for one in best) else "weights"
    said = f"largest error {error_text(max(known))} of a layer's {of}"
    return said + f" ({_RETRAIN})" * (max(known) > _SMALL)
