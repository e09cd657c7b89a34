"""The page of an Analysis: totals, what costs most; costs, memory, receptive field and data flow drawn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

from archcost.analysis.growth import field_steps
from archcost.analysis.profile import MemoryProfile, layer_costs, memory_profile
from archcost.analysis.reports.commands import command_text
from archcost.analysis.reports.notes import KIND_NAMES, elsewhere, field_notes, seen_whole, uncounted
from archcost.analysis.reports.partial import failure_of, steps_of
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.reports.tree import marks_of
from archcost.analysis.traced import TracedModel
from archcost.cost.costs import ModuleCost
from archcost.errors import ArchcostError
from archcost.report.document import Listing, Page
from archcost.report.page.parts import Along, Fact, Flow, Measure, Picture, Point, Span, Tiles
from archcost.report.text import visible
from archcost.report.units import axes_text, bytes_text, count_text, percent_text, shape_text, si_text

__all__ = ["costly", "facts", "page_of", "pictures"]

_MOST, _MOST_ALIVE = 3, 12
# Findings on which something can be done; the others are facts.
_ADVICE = frozenset({"No context", "Misaligned", "Uncovered"})


def page_of(analysis: TracedModel, tables: Sequence[Listing]) -> Page:
    """The page of an Analysis; of a pass that failed, the costs up to there and its last steps."""
    warnings = [f"Not counted: {text}; sums with >= are lower bounds" for text in uncounted(analysis)]
    advice = [Point(head, text) for head, text in field_notes(analysis) if head in _ADVICE]
    failed = analysis.trace.failed
    if failed is not None:
        warnings = [f"{failure_of(analysis)}; all below is what ran before", *warnings]
        where = visible(failed.module) or "the model's own forward"
        shapes = ", ".join(shape_text(ref.shape) for ref in failed.inputs) or "no tensor"
        text = f"it got {shapes}; the table of steps shows where that comes from"
        advice, tables = [Point(f"Mend {where}", text)], [Listing(steps_of(analysis)), *tables]
    return Page(
        warnings=warnings,
        facts=facts(analysis),
        costly=costly(analysis),
        advice=advice if failed is not None else [*advice, *_next(analysis)],
        pictures=pictures(analysis),
        lines=None if failed is None else (),
        tables=tables,
    )


def _next(analysis: TracedModel) -> list[Point]:
    """How to have cheaper layers, or where the cost is if not in convolutions; and the same model faster."""
    where = elsewhere(analysis)
    text = "replacements for the convolutions, with the change in every cost"
    cheaper = Point("Cheaper layers", text, command=command_text(analysis, "propose"))
    if where:
        text = f"{where}; archcost propose replaces convolutions only"
        cheaper = Point("Most of the cost is elsewhere", text)
    text = "the same model and weights as one program, timed against it on this machine"
    return [cheaper, Point("Faster as it is", text, command=command_text(analysis, "accelerate"))]


def facts(analysis: TracedModel) -> list[Fact]:
    """The totals at the top."""
    total, ledger = analysis.total, Ledger(analysis)
    least = ">=" * ("" in ledger.macs_open)
    profile = memory_profile(analysis)
    at = visible(profile.module) if profile is not None else ""
    found = [
        Fact(
            "Parameters",
            si_text(total.params),
            f"{count_text(total.params)}, {bytes_text(total.param_bytes)}",
        ),
        Fact("MACs", f"{least}{si_text(total.macs)}", f"{least}{si_text(total.flops)} FLOPs"),
        Fact("Peak memory", bytes_text(total.peak_memory_bytes), f"of activations, in {at or 'the model'}"),
    ]
    fields = analysis.fields_or_none
    network = None if fields is None else fields.network
    if network is not None and any(network.local.size):
        size, of = axes_text(network.local.size), f"pixels of an input of {axes_text(network.input_size)}"
        output = None if fields is None else fields.output
        if seen_whole(analysis):
            of = f"of an input of {axes_text(network.input_size)}; {size} pixels at {visible(network.layer)}"
            size = "all"
        elif network.is_global or (output is not None and output.is_global):
            of += ", without operations that see all of it"
        found.append(Fact("Receptive field", size, of))
    bends = f"weighted layers on the longest path, {total.nonlinearities} activation functions"
    return [*found, Fact("Depth", count_text(total.depth), bends)]


def costly(analysis: TracedModel) -> list[Point]:
    """The kinds of layers with the most MACs, equal layers together; what modules compute themselves too."""
    total = analysis.total.macs
    alike: dict[Hashable, list[ModuleCost]] = defaultdict(list)
    for row in Ledger(analysis).frontier(None):
        cost = row.module
        if cost.macs:
            alike[row.kind, cost.type_name, cost.details, cost.macs, cost.output_shape].append(cost)
    largest = sorted(alike.values(), key=lambda same: -sum(cost.macs for cost in same))[:_MOST]
    found = []
    for same in largest:
        macs = sum(cost.macs for cost in same)
        head = visible(same[0].name) or "(the model)"
        head += f" and {len(same) - 1} like it" * (len(same) > 1)
        share = macs / total
        of = f"{si_text(macs)} MACs, {percent_text(100 * share)} % of all"
        found.append(Point(head, f"{of}: {_what(analysis, same[0])}", share))
    return found


def _what(analysis: TracedModel, cost: ModuleCost) -> str:
    kernel = analysis.kernels.get(cost.name)
    shape = None if cost.output_shape is None else f"output {shape_text(cost.output_shape)}"
    # A module of several kinds of operations, such as attention with its projections.
    inside: Counter[str] = Counter()
    for one in analysis.operations:
        if one.module == cost.name:
            inside[one.kind] += one.macs or 0
    kinds = [
        f"{KIND_NAMES.get(kind, kind)} {percent_text(100 * macs / cost.macs)} %"
        for kind, macs in (+inside).most_common()
    ]
    several = f" ({', '.join(kinds)})" * (len(kinds) > 1)
    return ", ".join(visible(part) for part in (f"{cost.type_name}{several}", kernel, shape) if part)


def pictures(analysis: TracedModel, *more: Measure) -> list[Picture]:
    """The pictures of an Analysis, as far as there is something to draw; ``more`` measures of modules."""
    made: tuple[Picture | None, ...] = (
        *(_tiles(analysis, *more), _along(analysis), _memory(analysis), _growth(analysis)),
        *(_filters(analysis), _flow(analysis)),
    )
    return [picture for picture in made if picture is not None]


def _tiles(analysis: TracedModel, *more: Measure) -> Tiles:
    """The tree of modules by parameters, MACs and memory, and by ``more`` measures."""
    modules, ledger = analysis.modules, Ledger(analysis)
    index = {cost.name: at for at, cost in enumerate(modules)}
    marks = marks_of(ledger)
    details = []
    for cost in modules:
        info = analysis.trace.modules.get(cost.name)
        site = None if info is None or info.built_at is None else f"built at {info.built_at}"
        shape = None if cost.output_shape is None else f"output {shape_text(cost.output_shape)}"
        details.append("; ".join(visible(part) for part in (cost.details, shape, site) if part))
    return Tiles(
        title="Which modules cost most?",
        about="Each module is as wide as its share. Choose one to zoom in; equal neighbours are one tile.",
        names=[visible(cost.name) or visible(analysis.name) for cost in modules],
        parents=[index[cost.name.rpartition(".")[0]] if cost.name else -1 for cost in modules],
        types=[visible(cost.type_name) for cost in modules],
        details=details,
        alike=[marks[cost.name] for cost in modules],
        measures=[
            Measure("MACs", "MACs", [cost.macs for cost in modules]),
            Measure("Parameters", "parameters", [cost.params for cost in modules]),
            Measure("Activation memory", "bytes", [cost.activation_bytes for cost in modules]),
            *more,
        ],
    )


def _along(analysis: TracedModel) -> Along | None:
    layers = layer_costs(analysis)
    if not layers:
        return None
    return Along(
        title="Where along the depth do the costs lie?",
        about="Layers with weights and matrix products, in order of execution.",
        items=_named(layer.module for layer in layers),
        measures=[
            Measure("MACs", "MACs", [layer.macs for layer in layers]),
            Measure("Parameters", "parameters", [layer.params for layer in layers]),
            Measure("Activation memory", "bytes", [layer.activation_bytes for layer in layers]),
        ],
    )


def _memory(analysis: TracedModel) -> Along | None:
    profile = memory_profile(analysis)
    if profile is None:
        return None
    operations = analysis.operations
    names = _named(cost.module for cost in operations)
    where = visible(profile.module) or "the model"
    peak = f"{bytes_text(profile.live[profile.peak])} in {where} ({operations[profile.peak].op.label})"
    again = _equal_peaks(profile)
    alive = profile.alive[:_MOST_ALIVE]
    rest = len(profile.alive) - len(alive)
    return Along(
        title="When is memory at its peak, and what fills it?",
        about="Bytes of activations alive during each operation of a forward pass without gradients; "
        "weights and the model's inputs are not among them.",
        items=[f"{name} ({cost.op.label})" for name, cost in zip(names, operations, strict=True)],
        measures=[Measure("Activations alive", "bytes", profile.live)],
        marks=[profile.peak, *again],
        mark_text=f"peak {peak}{_again([names[at] for at in again])}",
        spans=[
            Span(f"{visible(one.module) or 'the model'} ({one.operation})", one.nbytes, one.first, one.last)
            for one in alive
        ],
        spans_title=f"Alive at the peak, {bytes_text(sum(one.nbytes for one in profile.alive))} in all"
        + f"; {rest} smaller ones are not shown" * bool(rest),
        spans_unit="bytes",
    )


def _equal_peaks(profile: MemoryProfile) -> list[int]:
    """The first operation of each other stretch of the pass at which memory is as high as at the peak."""
    live, top = profile.live, profile.live[profile.peak]
    starts = [at for at, value in enumerate(live) if value == top and (at == 0 or live[at - 1] != top)]
    of_peak = max(at for at in starts if at <= profile.peak)
    return [at for at in starts if at != of_peak]


def _again(names: Sequence[str]) -> str:
    """The other modules at which memory is as high."""
    others = list(dict.fromkeys(names))
    rest = len(others) - _MOST
    named = ", ".join(others[:_MOST]) + f" and {rest} more of the same height" * (rest > 0)
    return f"; as much again in {named}" if named else ""


def _growth(analysis: TracedModel) -> Along | None:
    fields = analysis.fields_or_none
    steps = [] if fields is None else field_steps(analysis)
    if fields is None or len(steps) < 2:  # a transformer's patches are a single step
        return None
    inputs = max((axis.size for axis in fields.axes), default=None)
    about = "Pixels of the input that a position of each layer's output depends on, the largest over the axes"
    constants = ", with global operations taken as constants" * any(step.is_global for step in steps)
    return Along(
        title="How does the receptive field grow?",
        about=f"{about}{constants}.",
        items=_named(step.module for step in steps),
        measures=[Measure("Receptive field", "pixels", [step.size for step in steps])],
        level=inputs,
        level_text="" if inputs is None else f"input {inputs}",
    )


def _filters(analysis: TracedModel) -> Along | None:
    """The bands of the kernels, where the model has weights of its own: random ones show nothing."""
    from archcost.analysis.filters import layer_spectra, shares_along  # NumPy is not light

    model = analysis.weighted
    if model is None:
        return None
    try:
        rows = layer_spectra(model)
    except ArchcostError:  # on `meta`, or not finite
        return None
    return shares_along(rows) if len(rows) > 1 else None


def _flow(analysis: TracedModel) -> Flow | None:
    trace = analysis.trace
    if not trace.ops:
        return None
    ranges: dict[str, tuple[int, int]] = {}
    for call in trace.calls:
        if call.end_op > call.first_op:
            ranges.setdefault(call.module, (call.first_op, call.end_op))
    names = list(ranges)
    index = {name: at for at, name in enumerate(names)}
    return Flow(
        title="How do data flow through a module?",
        about="Operations in order of execution; a line from each to those that read its output, which shows "
        "where branches part and join.",
        operations=[op.label for op in trace.ops],
        modules=[index.get(trace.module_of(op), 0) for op in trace.ops],
        shapes=[shape_text(op.outputs[0].shape) if op.outputs else "" for op in trace.ops],
        fed_by=[op.fed_by for op in trace.ops],
        views=[int(bool(op.outputs) and not op.reads and not op.writes) for op in trace.ops],
        names=_named(names),
        first=[ranges[name][0] for name in names],
        end=[ranges[name][1] for name in names],
    )


def _named(names: Iterable[str]) -> list[str]:
    return [visible(name) or "(the model)" for name in names]
