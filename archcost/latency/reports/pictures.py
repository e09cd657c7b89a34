"""The page of a measurement: times by module, the roofline, and every path of a chosen layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from archcost.analysis.reports.commands import command_text
from archcost.analysis.reports.pictures import facts, pictures
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.reports.tree import marks_of
from archcost.latency.layers import EAGER
from archcost.latency.prediction.roofline import bytes_moved
from archcost.latency.timing.thresholds import UNRELIABLE
from archcost.report.document import Page
from archcost.report.page.parts import Along, Choices, Dots, Fact, Measure, Picture, Point, Tiles
from archcost.report.text import visible
from archcost.report.units import ms_text, percent_text, ratio_text, si_text

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis
    from archcost.latency.layers import LayerTime
    from archcost.latency.store.measurement import Measurement
    from archcost.latency.timed import TimedModel
    from archcost.latency.timing.parts import CallTime, InContext
    from archcost.spec import ConvSpec

__all__ = ["costly_of", "facts_of", "faster_paths", "page_of", "pictures_of", "with_inner"]

_MOST = 3


def page_of(measured: TimedModel) -> Page:
    """The page of a measurement; its tables are those of the Document."""
    warnings = ["Interrupted: only what had been measured by then is shown"] * measured.interrupted
    return Page(
        warnings=warnings,
        facts=facts_of(measured, measured.analysis),
        costly=costly_of(measured),
        advice=_advice(measured),
        pictures=pictures_of(measured, measured.analysis),
    )


def pictures_of(measured: TimedModel, analysis: Analysis | None) -> list[Picture]:
    """The times by module and along the depth, the roofline, the paths of each layer; then the costs."""
    made: list[Picture | None] = [_along(measured), _roofline(measured), _choices(measured)]
    if analysis is not None:
        tiles, *others = pictures(analysis)
        assert isinstance(tiles, Tiles)
        made = [_timed(measured, analysis, tiles), *made, *others]
    return [one for one in made if one is not None]


def facts_of(measured: TimedModel, analysis: Analysis | None) -> list[Fact]:
    """The time of the model, what it costs on paper, and the conditions of the measurement."""
    found = []
    if measured.context is not None:
        end = measured.context.end_to_end
        spread = f"measured; spread {ms_text(end.spread_s * 1e3)} ms, {end.samples} passes"
        spread += f"; {UNRELIABLE}" * end.disturbed
        found.append(Fact("Forward pass", f"{ms_text(end.median_s * 1e3)} ms", spread))
    if analysis is not None:
        found.extend(facts(analysis))
    pairs = [
        (one.as_run_ms or one.native_ms, one.native_ms, one.best_ms)
        for one in measured.layers
        if one.native_ms is not None and one.best_ms
    ]
    if pairs:
        as_run, native, best = (sum(filter(None, times)) for times in zip(*pairs, strict=True))
        of = "on PyTorch's own path" + f"; {ms_text(native)} in the faster layout" * (as_run > native)
        of += f"; {ms_text(best)} by the fastest path"
        doubtful = sum(one.disturbed for one in measured.layers)
        of += f"; {doubtful} of these times {'are' if doubtful > 1 else 'is'} {UNRELIABLE}" * bool(doubtful)
        text, count = f"{ms_text(as_run)} ms", len(measured.layers)
        if len(pairs) < count:  # a part of them must not be read as all
            text, of = (
                f"{len(pairs)} of {count} timed",
                f"those together {text} {of}; more --seconds time more",
            )
        found.append(Fact("Convolutions alone", text, of))
    if measured.roofline is not None:
        line = measured.roofline
        peak = f"{si_text(line.macs_per_second)}MAC/s"
        found.append(Fact("Machine", peak, f"at most, and {si_text(line.bytes_per_second)}B/s of memory"))
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    processor = visible(measured.device).partition(" (")[0]  # all of it is in the notes
    return [*found, Fact("Conditions", threads, f"{visible(measured.dtype)}, {processor}")]


def faster_paths(measured: TimedModel) -> tuple[str, float] | None:
    """The time that the fastest paths save together, in words and in ms; None where none is faster."""
    known = [(one.as_run_ms or one.native_ms, one.best_ms) for one in measured.layers]
    pairs = [(old, new) for old, new in known if old and new]
    before, after = (sum(one[side] for one in pairs) for side in (0, 1))
    if not before > after:
        return None
    doubt = f" ({UNRELIABLE})" * any(one.disturbed for one in measured.layers)
    text = (
        f"{ms_text(after)} ms in place of {ms_text(before)} ms, each alone{doubt}; the same outputs but for "
    )
    return f"{text}rounding. This makes one program of the whole model and times it", before - after


def _alike(measured: TimedModel) -> dict[ConvSpec, list[LayerTime]]:
    found: dict[ConvSpec, list[LayerTime]] = defaultdict(list)
    for layer in measured.layers:
        if layer.spec is not None:
            found[layer.spec].append(layer)
    return found


def _time(layer: LayerTime) -> float:
    return layer.latency_ms or layer.native_ms or 0.0


def _head(layers: Sequence[LayerTime]) -> str:
    name = visible(layers[0].name) or "(the model)"
    return name + f" and {len(layers) - 1} like it" * (len(layers) > 1)


def costly_of(measured: TimedModel) -> list[Point]:
    """The modules with the most time of their own inside real passes, equal ones together.

    Without a measurement in context, the kinds of convolutions by their times alone.
    """
    if measured.context is not None:
        return _costly_modules(measured, measured.context)
    whole = sum(map(_time, measured.layers))
    kinds = sorted(_alike(measured).items(), key=lambda kind: -sum(map(_time, kind[1])))
    found = []
    for spec, layers in kinds[:_MOST]:
        ms = sum(map(_time, layers))
        if ms and whole:
            share = percent_text(100 * ms / whole)
            text = f"{ms_text(ms)} ms alone, {share} % of all convolutions: {spec.short}"
            found.append(Point(_head(layers), text, min(ms / whole, 1)))
    return found


def _costly_modules(measured: TimedModel, context: InContext) -> list[Point]:
    whole = context.end_to_end.median_s * 1e3
    specs = {layer.name: layer.spec for layer in measured.layers}
    marks = {} if measured.analysis is None else marks_of(Ledger(measured.analysis))
    kinds: dict[Hashable, list[CallTime]] = defaultdict(list)
    for call in context.calls:
        kind: Hashable = specs.get(call.name) or marks.get(call.name, call.name)
        kinds[kind].append(call)
    found = []
    for calls in sorted(kinds.values(), key=lambda calls: -sum(call.median_s for call in calls))[:_MOST]:
        ms, spec = 1e3 * sum(call.median_s for call in calls), specs.get(calls[0].name)
        names = list(dict.fromkeys(call.name for call in calls))
        name = visible(names[0]) or "(the model)"
        head = name + f" and {len(names) - 1} like it" * (len(names) > 1)
        what = visible(calls[0].type) if spec is None else spec.short
        share = ms / whole if whole else 0.0
        found.append(
            Point(head, f"{ms_text(ms)} ms, {percent_text(100 * share)} % of all: {what}", min(share, 1))
        )
    return found


def _advice(measured: TimedModel) -> list[Point]:
    """The kinds of convolutions that gain most from another path or layout than they run in."""
    gains = []
    for spec, layers in _alike(measured).items():
        known = [(one.as_run_ms or one.native_ms, one.best_ms) for one in layers]
        pairs = [(old, new) for old, new in known if old and new]
        before, after = (sum(one[side] for one in pairs) for side in (0, 1))
        first = layers[0]
        if before > after:
            path = "PyTorch's own path" if first.best_path in EAGER else visible(first.best_path or "")
            text = f"{path}, {first.best_layout}: {ratio_text(before / after)} as fast alone, "
            text += f"{ms_text(before - after)} ms less ({spec.short})"
            text += f"; {UNRELIABLE}" * any(one.disturbed for one in layers)
            other = "layout" if first.best_path in EAGER else "path"
            gains.append((before - after, Point(f"{_head(layers)} by another {other}", text)))
    gains.sort(key=lambda gain: -gain[0])
    found = [point for _, point in gains[:_MOST]]
    if found:
        text = "makes one program of the whole model, with the fastest paths, and times it"
        command = "archcost accelerate SPEC"
        if measured.analysis is not None:
            command = command_text(measured.analysis, "accelerate", f"--threads {measured.threads}")
        found.append(Point("To have it", text, command=command))
    return found


def _timed(measured: TimedModel, analysis: Analysis, tiles: Tiles) -> Tiles:
    """The tree of modules with the measured times first."""
    if measured.context is None:
        return tiles
    own: dict[str, float] = defaultdict(float)
    for call in measured.context.calls:
        own[call.name] += call.median_s * 1e3
    times = with_inner(own, [cost.name for cost in analysis.modules])
    return replace(
        tiles,
        title="Which modules take the time, and which cost most?",
        about="Each module is as wide as its share; times are medians inside real forward passes. Choose one "
        "to zoom in; equal neighbours are one tile. What a module does itself is the empty space below it.",
        measures=[Measure("Measured time", "ms", times), *tiles.measures],
    )


def with_inner(own: Mapping[str, float], names: Sequence[str]) -> list[float | None]:
    """For each module its own time and those of the modules inside; None where there is none."""
    found: dict[str, float] = defaultdict(float)
    for name, time in own.items():
        for outer in {name, *(name[:at] for at, letter in enumerate(name) if letter == "."), ""}:
            found[outer] += time
    return [found.get(name) for name in names]


def _along(measured: TimedModel) -> Along | None:
    """Every module call with a time of its own; without times in context the convolutions alone."""
    layers, calls = measured.layers, () if measured.context is None else measured.context.calls
    alone: dict[tuple[str, int], list[LayerTime]] = defaultdict(list)
    for layer in layers:
        alone[layer.name, layer.call].append(layer)
    if calls:
        items = [f"{_named(call)}, {visible(call.type)}" for call in calls]
        held = [alone[call.name, call.call] for call in calls]
        about = "In context: each module's own time inside real forward passes. Alone: convolutions "
    else:
        items, held = [_named(layer) for layer in layers], [[layer] for layer in layers]
        about = "Convolutions, alone "
    series: dict[str, list[float | None]] = {
        "In context": [call.median_s * 1e3 for call in calls],
        "Native, alone": [_sum([one.native_ms for one in each]) for each in held],
        "Best path, alone": [_sum([one.best_ms for one in each]) for each in held],
    }
    if len(items) < 2:
        return None
    return Along(
        title="Where along the depth does the time go?",
        about=f"{about}on a warm cache, to be compared only with each other. In order of execution.",
        items=items,
        measures=[Measure(name, "ms", v) for name, v in series.items() if any(x is not None for x in v)],
    )


def _sum(times: Sequence[float | None]) -> float | None:
    known = [time for time in times if time is not None]
    return sum(known) if known and len(known) == len(times) else None


def _named(layer: LayerTime | CallTime) -> str:
    return (visible(layer.name) or "(the model)") + f" (call {layer.call + 1})" * bool(layer.call)


def _roofline(measured: TimedModel) -> Dots | None:
    """Each convolution's multiplications per second over those per byte, by its best path."""
    line = measured.roofline
    if line is None:
        return None
    names, groups, x, y, texts = [], [], [], [], []
    for one in measured.layers:
        if one.spec is None or not one.best_ms or not one.multiplications or one.dtype != line.dtype:
            continue
        moved = bytes_moved(one.spec, 8 if one.dtype == "float64" else 4)
        share = percent_text(100 * line.share(one.best_ms / 1e3, one.multiplications, moved))
        limit = line.bound(one.multiplications, moved)
        names.append(_named(one))
        groups.append(visible(one.best_path or ""))
        x.append(one.multiplications / moved)
        y.append(one.multiplications / (one.best_ms / 1e3))
        texts.append(f"{ms_text(one.best_ms)} ms, {share} % of the limit, which is {limit}; {one.spec.short}")
    if not names:
        return None
    in_caches = "Data in a cache may be faster than the slope."
    if line.caches:
        levels = ", ".join(one.name for one in line.caches)
        in_caches = f"Thin slopes: {levels}, for layers whose data fit into them."
    return Dots(
        title="How close to the limit of this machine?",
        about="Each dot is a convolution on its fastest path; above the slope memory cannot follow, above "
        f"the ceiling the processor cannot. {in_caches}",
        names=names,
        groups=groups,
        x=x,
        y=y,
        texts=texts,
        x_label="multiplications for each byte moved",
        y_label="multiplications per second",
        slope=line.bytes_per_second,
        steeper=[one.bytes_per_second for one in line.caches],
        ceiling=line.macs_per_second,
    )


def _choices(measured: TimedModel) -> Choices | None:
    """Times and multiplications of every path, for each convolution."""
    tasks = {found.task: at for at, found in enumerate(measured.convolutions)}
    items, groups = [], []
    for call in measured.calls:
        if call.task is not None and call.task in tasks:
            items.append(f"{visible(call.name) or '(the model)'} ({call.task.spec.short})")
            groups.append(tasks[call.task])
    if not items:
        return None
    return Choices(
        title="Which paths were tried for a layer?",
        about="Median time alone, and the multiplications of data by weights that the path makes.",
        label="Layer",
        items=items,
        groups=groups,
        bars=[[_bar(one) for one in found.measurements] for found in measured.convolutions],
        measures=[("Time", "ms"), ("Multiplications", "multiplications")],
        kept=["native"],
    )


def _bar(one: Measurement) -> tuple[str, tuple[float | None, ...], str]:
    from archcost.paths.registry import get

    try:
        count: int | None = get(one.key.path).multiplications(one.key.spec)
    except Exception:  # a path of another package, which is not installed here
        count = None
    return visible(one.key.path), (one.median_s * 1e3, count), one.key.layout
