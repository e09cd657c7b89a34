"""The pictures of an optimised model's page: layers before and after, how far outputs moved, the new tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from archcost.analysis.reports.pictures import pictures
from archcost.analysis.traced import TracedModel
from archcost.report.page.parts import Along, Measure, Pairs, Picture
from archcost.report.text import visible

__all__ = ["pictures_of"]

_COSTS = (
    ("MACs", "macs", "MACs"),
    ("Parameters", "params", "parameters"),
    ("Activation memory", "activation_bytes", "bytes"),
)


def pictures_of(
    before: TracedModel,
    after: TracedModel,
    changed: Mapping[str, str],
    errors: Mapping[str, tuple[float | None, float | None]],
) -> list[Picture]:
    """The pictures, as far as there is something to draw.

    Args:
        before: the old model.
        after: the new model, its layers at the names of the old ones.
        changed: by name of each layer that was exchanged, what stands there now.
        errors: by name of each layer the relative error of its output: predicted, and after the refit.
    """
    sides = [{cost.name: cost for cost in side.modules} for side in (before, after)]
    names = [name for name in changed if all(name in side for side in sides)]
    was, now = (
        [Measure(text, unit, [getattr(side[name], of) for name in names]) for text, of, unit in _COSTS]
        for side in sides
    )
    drawn = Pairs(
        title="What changed, layer by layer?",
        about="The layers that were exchanged, the largest change first.",
        sides=("before", "after"),
        names=list(map(visible, names)),
        remarks=[visible(changed[name]) for name in names],
        before=was,
        after=now,
    )
    series = dict(zip(("Predicted", "After the refit"), zip(*errors.values(), strict=True), strict=False))
    shown = [
        Measure(name, "%", [None if one is None else 100 * one for one in series[name]])
        for name in ("After the refit", "Predicted")
        if any(one is not None for one in series.get(name, ()))
    ]
    moved = Along(
        title="How far did each layer's output move?",
        about="Relative error of its output in percent, on held-out inputs. Layers that stay move as well, "
        "since they are fitted to what comes before them.",
        items=list(map(visible, errors)),
        measures=shown,
    )
    tiles = replace(pictures(after)[0], title="Which modules of the new model cost most?")
    return [*[drawn] * bool(names), *[moved] * bool(shown and len(errors) > 1), tiles]
