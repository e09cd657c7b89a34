"""plot.block: the layers of a block as boxes from its input to its output, with what each costs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.analysis.kernels import kernels_of
from archcost.errors import SpecError
from archcost.plot.drawing.canvas import COLOURS, MARGIN, PALE, SOFT, check_path, finish, sheet, short
from archcost.plot.drawing.cells import arrow, box, lighter
from archcost.report.text import visible
from archcost.report.units import count_text, shape_text, si_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from archcost.cost.costs import OpCost
    from archcost.trace.graph import ModuleCall, TensorRef
    from archcost.trace.inputs import InputSize

__all__ = ["Step", "block", "steps_of"]

_KINDS = frozenset({"convolution", "pool", "matmul", "attention", "recurrent"})
_JOINS = {"add": "+", "cat": "concatenated", "mul": "×"}
_WIDE, _TALL, _BAR = 1.42, 0.56, 0.28  # inches, as all that follows
_ACROSS, _DOWN, _HEAD = 1.62, 0.88, 1.05
_COLUMNS, _LEVELS = 12, 30
_INPUT = -1


class Step(NamedTuple):
    """A layer of a block, or a sum or concatenation of several."""

    module: str
    text: str
    macs: int
    sources: tuple[int, ...]
    """The steps whose results it takes; -1 is the input of the block."""


@dataclass
class _Place:
    """Where a step is drawn: its column, the last one that it reaches, and the level below the input."""

    first: float
    last: float
    level: int

    @property
    def middle(self) -> float:
        return (self.first + self.last) / 2

    def reach(self, column: float) -> None:
        self.first, self.last = min(self.first, column), max(self.last, column)


def block(
    model: nn.Module | str | Analysis,
    module: str = "",
    *,
    input_size: InputSize | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw a block of a model: its layers as boxes from the input to the output, with kernels and MACs.

    A box has the kernel, the channels that go in and come out, and the MACs; the darker, the more. Branches
    stand side by side, and what joins them is a bar. Normalisations and activation functions are left out.
    Where the block is called several times, the first call is drawn.

    Args:
        model: a module, a SPEC, or an Analysis.
        module: the block's name, as in ``named_modules()``; by default the whole model.
        input_size: as in `archcost.analyze`, for a model that is not an Analysis.
        path: the file to write, in the format of its suffix (.png, .svg, .pdf); it is overwritten.

    Returns:
        The figure.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
        SpecError: no such module, one without layers or that is never called, more than 12 branches side by
            side or 30 layers in a row, or an unknown suffix.
    """
    check_path(path)
    analysis = analysis_of("plot.block", model, input_size=input_size)
    row, call = analysis[module], _call(analysis, module)
    steps = steps_of(analysis, module)
    places, around = _placed(steps)
    columns = 1 + max(place.last for place in places.values())
    levels = max(place.level for place in places.values())
    if columns > _COLUMNS or levels > _LEVELS:
        raise SpecError(
            f"plot.block: {visible(module) or analysis.name} has {int(columns)} branches and {levels} layers in a "
            f"row; {_COLUMNS} and {_LEVELS} can be read, so name a block within it"
        )
    title = f"{visible(module) or analysis.name} ({row.type_name})"
    said = f"{count_text(row.params)} parameters, {si_text(row.macs)} MACs; the darker a box, the more MACs"
    width = max(2 * MARGIN + columns * _ACROSS - (_ACROSS - _WIDE), 0.082 * len(said) + 2 * MARGIN)
    height = _HEAD + (levels + 1) * _DOWN + _TALL + MARGIN / 2
    figure, axes = sheet(width, height, short(title, int(width / 0.14)), said)
    ends = {_INPUT: f"input {_shape(call.inputs)}", len(steps): f"output {_shape(call.outputs)}"}
    most = max(step.macs for step in steps) or 1

    def across(column: float) -> float:
        return MARGIN + column * _ACROSS + _WIDE / 2

    def top(at: int) -> float:
        return height - _HEAD - places[at].level * _DOWN

    def tall(at: int) -> float:
        return _BAR if at in ends or len(steps[at].sources) > 1 else _TALL

    outputs = _outputs(steps)
    for at, place in places.items():
        left, wide = across(place.first) - _WIDE / 2, (place.last - place.first) * _ACROSS + _WIDE
        if at in ends:
            box(axes, left, top(at), wide, _BAR, "end", ends[at], 8.5, facecolor="white")
        else:
            step = steps[at]
            share = step.macs / most
            colour = lighter(COLOURS[0], 0.92 - 0.55 * share) if step.macs else PALE
            box(axes, left, top(at), wide, tall(at), step.module or "join", step.text, 8.5, facecolor=colour)
        sources = outputs if at == len(steps) else () if at == _INPUT else steps[at].sources
        for source in sources:
            above = places[source]
            if (source, at) in around:
                start = end = around[source, at]
                if not above.first <= start <= above.last:  # a layer that others take as well: out at its side
                    beside = top(source) - _TALL / 2
                    side = (across(above.middle) + _WIDE / 2, across(start))
                    axes.plot(side, (beside, beside), color=SOFT, linewidth=1.1)
                    arrow(axes, (across(start), beside), (across(end), top(at)), line=1.1)
                    continue
            else:
                start = end = min(max(above.middle, place.first), place.last)
                if at in ends or len(sources) == 1:
                    end = min(max(place.middle, place.first), place.last)
                    start = min(max(end, above.first), above.last)
            arrow(axes, (across(start), top(source) - tall(source)), (across(end), top(at)), line=1.1)
    return finish(figure, path)


def steps_of(analysis: Analysis, module: str = "") -> list[Step]:
    """The layers of a module's first call in order of execution, and what joins them.

    Raises:
        SpecError: the module has no such layers, or was never called.
    """
    call = _call(analysis, module)
    inputs = {one.index for one in analysis.trace.storages if one.origin == "input"}
    holds: dict[int, tuple[int, ...]] = {}
    steps: list[Step] = []
    for cost in analysis.operations:
        op = cost.op
        if not call.first_op <= op.index < call.end_op:
            continue
        found = dict.fromkeys(at for fed in op.fed_by for at in holds.get(fed, (_INPUT,)))
        if inputs & {*op.reads}:
            found[_INPUT] = None
        sources = tuple(found)
        if cost.kind in _KINDS or len(sources) > 1:
            steps.append(Step(cost.module, _text(cost, sources), cost.macs or 0, sources))
            sources = (len(steps) - 1,)
        holds[op.index] = sources
    if not steps:
        raise SpecError(f"plot.block: {visible(module) or analysis.name} has no layers to draw")
    return steps


def _call(analysis: Analysis, module: str) -> ModuleCall:
    name = analysis[module].name
    for call in analysis.trace.calls:
        if call.module == name:
            return call
    raise SpecError(f"plot.block: {visible(module)} is never called itself; name a module that is")


def _text(cost: OpCost, sources: Sequence[int]) -> str:
    """Kernel, channels and MACs of a layer; of a join what it does."""
    op = cost.op
    if cost.kind not in _KINDS:
        return _JOINS.get(op.label, op.label)
    kernel = kernels_of([cost]).get(cost.module, "")
    if cost.kind == "pool":
        return f"{kernel} {'max' if 'max' in op.label else 'average'} pool".strip()
    axis = 1 if cost.kind == "convolution" else -1
    given = next(op.tensors(), None)
    channels = f"{given.shape[axis]} to {op.outputs[0].shape[axis]}" if given and op.outputs else ""
    return f"{short(kernel or cost.kind, 19)}\n{channels}\n{si_text(cost.macs or 0)} MACs"


def _shape(tensors: Sequence[TensorRef]) -> str:
    """The shape of the first tensor without its batch."""
    return shape_text(tensors[0].shape[1:]) if tensors else ""


def _outputs(steps: Sequence[Step]) -> list[int]:
    """The steps whose results leave the block."""
    taken = {source for step in steps for source in step.sources}
    return [at for at in range(len(steps)) if at not in taken]


def _placed(steps: Sequence[Step]) -> tuple[dict[int, _Place], dict[tuple[int, int], float]]:
    """The place of each step, of the input (-1) and of the output, and the columns of the ways around.

    A chain of layers keeps its column, and a branch takes the next free one; so does a way from a step that
    others take as well to a join, past what lies between.
    """
    places = {_INPUT: _Place(0, 0, 0)}
    around: dict[tuple[int, int], float] = {}
    continued = {_INPUT}
    free = 0.0
    for at, step in enumerate(steps):
        level = 1 + max((places[source].level for source in step.sources), default=0)
        own = [source for source in step.sources if source not in continued]
        continued.update(own)
        for source in step.sources:
            if len(step.sources) > 1 and source not in own:
                around[source, at], free = free, free + 1
        if not own:
            column = min((around[source, at] for source in step.sources if (source, at) in around), default=free)
            free = max(free, column + 1)
            places[at] = _Place(column, column, level)
        elif len(step.sources) > 1:
            places[at] = _Place(min(places[s].first for s in own), max(places[s].last for s in own), level)
        else:
            places[at] = _Place(places[own[0]].middle, places[own[0]].middle, level)
        for source in step.sources:
            if (source, at) in around:
                places[at].reach(around[source, at])
            if source == _INPUT or len(steps[source].sources) > 1:
                places[source].reach(around.get((source, at), places[at].middle))
    places[len(steps)] = _Place(0, free - 1, 1 + max(place.level for place in places.values()))
    places[_INPUT].reach(free - 1)
    return places, around
