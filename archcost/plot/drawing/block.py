"""plot.block: the layers of a block as boxes from its input to its output, with what each costs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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

    @property
    def joins(self) -> bool:
        return len(self.sources) > 1


class _Line(NamedTuple):
    """The columns of the two ends of an arrow."""

    start: float
    end: float


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
    name = visible(module) or analysis.name
    steps = steps_of(analysis, module)
    places, around = _placed(steps)
    columns = 1 + max(place.last for place in places.values())
    levels = max(place.level for place in places.values())
    if columns > _COLUMNS or levels > _LEVELS:
        raise SpecError(
            f"plot.block: {name} is {int(columns)} layers wide and {levels - 1} long, and {_COLUMNS} and "
            f"{_LEVELS} can be read; name a block within it"
        )
    said = f"{count_text(row.params)} parameters, {si_text(row.macs)} MACs; the darker a box, the more MACs"
    width = max(2 * MARGIN + columns * _ACROSS - (_ACROSS - _WIDE), 0.082 * len(said) + 2 * MARGIN)
    height = _HEAD + levels * _DOWN + _BAR + MARGIN
    figure, axes = sheet(width, height, short(f"{name} ({row.type_name})", int(width / 0.14)), said)
    most = max(step.macs for step in steps) or 1
    for at, place in places.items():
        left, wide = _across(place.first) - _WIDE / 2, (place.last - place.first) * _ACROSS + _WIDE
        top = height - _HEAD - place.level * _DOWN
        if at == _INPUT or at == len(steps):
            word, tensors = ("input", call.inputs) if at == _INPUT else ("output", call.outputs)
            box(axes, left, top, wide, _BAR, "end", f"{word} {_shape(tensors)}", 8.5, facecolor="white")
            continue
        step = steps[at]
        fill = lighter(COLOURS[0], 0.92 - 0.55 * step.macs / most) if step.macs else PALE
        tall = _BAR if step.joins else _TALL
        box(axes, left, top, wide, tall, step.module or "join", step.text, 8.5, facecolor=fill)
    for (source, at), line in _lines(steps, places, around).items():
        below = _BAR if source == _INPUT or steps[source].joins else _TALL
        top, end = (height - _HEAD - places[one].level * _DOWN for one in (source, at))
        if places[source].first <= line.start <= places[source].last:
            start = (_across(line.start), top - below)
        else:  # others take it as well: out at its side
            start = (_across(line.start), top - below / 2)
            side = (_across(places[source].last) + _WIDE / 2, start[0])
            axes.plot(side, (start[1], start[1]), color=SOFT, linewidth=1.1)
        arrow(axes, start, (_across(line.end), end), line=1.1)
    return finish(figure, path)


def _across(column: float) -> float:
    return MARGIN + column * _ACROSS + _WIDE / 2


def _lines(
    steps: Sequence[Step], places: Mapping[int, _Place], around: Mapping[tuple[int, int], float]
) -> dict[tuple[int, int], _Line]:
    """The columns at which each arrow, from a step to one that takes it, starts and ends."""
    taken = {source for step in steps for source in step.sources}
    ends = {at: step.sources for at, step in enumerate(steps)}
    ends[len(steps)] = tuple(at for at in range(len(steps)) if at not in taken)
    lines = {}
    for at, sources in ends.items():
        place = places[at]
        for source in sources:
            above, way = places[source], around.get((source, at))
            if way is not None:
                lines[source, at] = _Line(way, way)
            elif len(sources) > 1:
                middle = min(max(above.middle, place.first), place.last)
                lines[source, at] = _Line(middle, middle)
            else:
                start = min(max(place.middle, above.first), above.last)
                lines[source, at] = _Line(start, place.middle if at < len(steps) else start)
    return lines


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
    # A convolution takes its input first, a product of matrices before the last.
    place, axis = (0, 1) if cost.kind == "convolution" else (-2, -1)
    given = [*op.tensors()][place:][:1]
    channels = f"{given[0].shape[axis]} to {op.outputs[0].shape[axis]}" if given and op.outputs else ""
    return f"{short(kernel or cost.kind, 19)}\n{channels}\n{si_text(cost.macs or 0)} MACs"


def _shape(tensors: Sequence[TensorRef]) -> str:
    """The shape of the first tensor without its batch."""
    return shape_text(tensors[0].shape[1:]) if tensors else ""


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
        own = [places[source] for source in step.sources if source not in continued]
        if step.joins:
            for source in step.sources:
                if source in continued:
                    around[source, at], free = free, free + 1
        continued.update(step.sources)
        ways = [column for (_, end), column in around.items() if end == at]
        if not own and not ways:
            ways, free = [free], free + 1
        if step.joins:
            first = min([*(place.first for place in own), *ways])
            places[at] = _Place(first, max([*(place.last for place in own), *ways]), level)
        else:
            column = own[0].middle if own else ways[0]
            places[at] = _Place(column, column, level)
        for source in step.sources:
            if source != _INPUT and not steps[source].joins:
                continue
            if (source, at) in around or not step.joins:
                places[source].reach(around.get((source, at), places[at].middle))
    places[len(steps)] = _Place(0, max(free - 1, 0), 1 + max(place.level for place in places.values()))
    places[_INPUT].reach(free - 1)
    return places, around
