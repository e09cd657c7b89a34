"""The page of a measurement: times by module, the roofline, and every path of a chosen layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from archcost.latency.layers import EAGER
from archcost.latency.prediction.roofline import bytes_moved
from archcost.latency.timing.thresholds import UNRELIABLE
from archcost.report.document import Page
from archcost.report.page.parts import Along, Choices, Dots, Fact, Measure, Point, Tiles
from archcost.report.text import visible
from archcost.report.units import ms_text, percent_text, ratio_text, si_text

if TYPE_CHECKING:
    from archcost.latency.layers import LayerTime
    from archcost.latency.store.measurement import Measurement
    from archcost.latency.timed import TimedModel
    from archcost.latency.timing.parts import CallTime, InContext
    from archcost.spec import ConvSpec

__all__ = ["page_of"]

_MOST = 3


def page_of(measured: TimedModel) -> Page:
    """The page of a measurement; its tables are those of the Document."""
    warnings = ["Interrupted: only what had been measured by then is shown"] * measured.interrupted
    made = (_tiles(measured), _along(measured), _roofline(measured), _choices(measured))
    return Page(
        warnings=warnings,
        facts=_facts(measured),
        costly=_costly(measured),
        advice=_advice(measured),
        pictures=[one for one in made if one is not None],
    )


def _facts(measured: TimedModel) -> list[Fact]:
    found = []
    if measured.context is not None:
        end = measured.context.end_to_end
        spread = f"spread {ms_text(end.spread_s * 1e3)} ms, {end.samples} passes"
        spread += f"; {UNRELIABLE}" * end.disturbed
        found.append(Fact("Forward pass", f"{ms_text(end.median_s * 1e3)} ms", spread))
    pairs = [
        (one.as_run_ms or one.native_ms, one.native_ms, one.best_ms)
        for one in measured.layers
        if one.native_ms is not None and one.best_ms
    ]
    if pairs:
        as_run, native, best = (sum(filter(None, times)) for times in zip(*pairs, strict=True))
        of = f"of {len(pairs)} convolutions alone, on PyTorch's own path as the model runs them"
        of += f"; {ms_text(native)} ms in the faster layout" * (as_run > native)
        of += f"; {ms_text(best)} ms by the fastest path"
        doubtful = sum(one.disturbed for one in measured.layers)
        of += f"; {doubtful} of these times {'are' if doubtful > 1 else 'is'} {UNRELIABLE}" * bool(doubtful)
        found.append(Fact("Convolutions", f"{ms_text(as_run)} ms", of))
    if measured.roofline is not None:
        line = measured.roofline
        peak = f"{si_text(line.macs_per_second)}MAC/s"
        found.append(Fact("Machine", peak, f"at most, and {si_text(line.bytes_per_second)}B/s of memory"))
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    return [*found, Fact("Conditions", threads, f"{visible(measured.dtype)}; {visible(measured.device)}")]


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


def _costly(measured: TimedModel) -> list[Point]:
    """The modules with the most time of their own inside real passes, equal convolutions together.

    Without a measurement in context, the kinds of convolutions by their times alone.
    """
    if measured.context is not None:
        return _costly_modules(measured, measured.context)
    whole = measured.end_to_end_ms or sum(map(_time, measured.layers))
    kinds = sorted(_alike(measured).items(), key=lambda kind: -sum(map(_time, kind[1])))
    found = []
    for spec, layers in kinds[:_MOST]:
        ms = sum(map(_time, layers))
        if ms and whole:
            text = f"{ms_text(ms)} ms, {percent_text(100 * ms / whole)} % of all: {spec.short}"
            found.append(Point(_head(layers), text, min(ms / whole, 1)))
    return found


def _costly_modules(measured: TimedModel, context: InContext) -> list[Point]:
    whole = context.end_to_end.median_s * 1e3
    specs = {layer.name: layer.spec for layer in measured.layers}
    kinds: dict[Hashable, list[CallTime]] = defaultdict(list)
    for call in context.calls:
        kinds[specs.get(call.name) or call.name].append(call)
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
        text = "archcost accelerate SPEC times the whole model with each convolution on its fastest path"
        found.append(Point("To have it", text))
    return found


def _tiles(measured: TimedModel) -> Tiles | None:
    """The modules by their own times and those of the modules inside."""
    if measured.context is None:
        return None
    own: dict[str, float] = defaultdict(float)
    types: dict[str, str] = {"": measured.type}
    for call in measured.context.calls:
        own[call.name] += call.median_s * 1e3
        types[call.name] = call.type
    known = {""}
    for name in own:
        while name not in known:
            known.add(name)
            name = name.rpartition(".")[0]
    names = _in_order(list(own), known)
    index = {name: at for at, name in enumerate(names)}
    total = [own.get(name, 0.0) for name in names]
    parents = [index[name.rpartition(".")[0]] if name else -1 for name in names]
    for at in reversed(range(1, len(names))):
        total[parents[at]] += total[at]
    return Tiles(
        title="Which modules take the time?",
        about="Median times inside real forward passes; each module is as wide as its share. Choose one to "
        "zoom in. What a module does itself, beside its children, is the empty space below it.",
        names=[visible(name) or visible(measured.name) for name in names],
        parents=parents,
        types=[visible(types.get(name, "")) for name in names],
        details=[""] * len(names),
        alike=list(range(len(names))),
        measures=[Measure("Time", "ms", total)],
    )


def _in_order(ran: Sequence[str], known: set[str]) -> list[str]:
    """The names as a tree, parents before their children, siblings in the order in which they ran."""
    children: dict[str, dict[str, None]] = defaultdict(dict)
    for name in ran:
        while name:
            parent = name.rpartition(".")[0]
            children[parent][name] = None
            name = parent
    order, stack = [], [""]
    while stack:
        name = stack.pop()
        order.append(name)
        stack.extend(reversed(children[name]))
    return order


def _along(measured: TimedModel) -> Along | None:
    layers = measured.layers
    if not layers:
        return None
    series = {
        "In context": [one.latency_ms for one in layers],
        "Native, alone": [one.native_ms for one in layers],
        "Best path, alone": [one.best_ms for one in layers],
    }
    return Along(
        title="Where along the depth does the time go?",
        about="Convolutions in order of execution. In context: inside real forward passes; alone: on a warm "
        "cache, to be compared only with each other.",
        items=[_named(one) for one in layers],
        measures=[Measure(name, "ms", v) for name, v in series.items() if any(x is not None for x in v)],
    )


def _named(layer: LayerTime) -> str:
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
    return Dots(
        title="How close to the limit of this machine?",
        about="Each dot is a convolution on its fastest path; above the slope memory cannot follow, above "
        "the ceiling the processor cannot. Data in a cache may be faster than the slope.",
        names=names,
        groups=groups,
        x=x,
        y=y,
        texts=texts,
        x_label="multiplications for each byte moved",
        y_label="multiplications per second",
        slope=line.bytes_per_second,
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
    )


def _bar(one: Measurement) -> tuple[str, tuple[float | None, ...], str]:
    from archcost.paths.registry import get

    try:
        count: int | None = get(one.key.path).multiplications(one.key.spec)
    except Exception:  # a path of another package, which is not installed here
        count = None
    return visible(one.key.path), (one.median_s * 1e3, count), one.key.layout
