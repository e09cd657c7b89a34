"""The heading and notes around the table of `Measured`."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from archcost.latency.timing.thresholds import UNRELIABLE
from archcost.report.notes import Explanations, explained, named
from archcost.report.text import visible
from archcost.report.units import ratio_text

if TYPE_CHECKING:
    from archcost.latency.timed import TimedModel
    from archcost.report.grid import Grid

__all__ = ["answers", "heading", "notes_of"]

KEEPING = "MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=2147483647"
"""Variables of the environment that make glibc keep freed memory. Either alone ends its adapting of both."""
_SYSTEM, _FAULTS = 0.05, 100
"""The share of a pass, and the number of page faults, from which on they are worth a note."""
_UNITS: Explanations = (
    ("medians in ms", ()),
    ("in context: inside real forward passes", ("In context ms",)),
    (
        "native and best time each convolution alone on a warm cache: compare them only with each other",
        ("Native ms", "Best ms", "Speedup"),
    ),
    ("1 MB is 10^6 bytes", ("Workspace",)),
)


def heading(measured: TimedModel) -> tuple[str, str]:
    """The model, and its input with the number of threads."""
    name, kind = visible(measured.name), visible(measured.type)
    model = name if name == kind else f"{name} ({kind})"
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    return model, f"input {visible(measured.input)}, {threads}"


def notes_of(measured: TimedModel, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """The notes as (label, plain text) pairs; columns are explained where a grid has them."""
    notes = [("Interrupted", "only what had been measured by then is shown")] * measured.interrupted
    notes += _of_paths(measured)
    notes += _of_native(measured, grids)
    notes += _of_predictions(measured)
    notes += _of_layers(measured)
    if measured.roofline is not None:
        line = measured.roofline
        text = f"{line.macs_per_second / 1e9:.1f} GMAC/s, {line.bytes_per_second / 1e9:.1f} GB/s"
        text += "".join(f" ({one.name} {one.bytes_per_second / 1e9:.1f})" for one in line.caches)
        more = "" if line.caches else "; a path can exceed 100 % while its data are in a cache"
        notes.append(("Roofline", f"{text} at most on this machine (measured){more}"))
    notes.append(("Device", visible(measured.device)))
    notes.append(("Units", explained(_UNITS, grids)))
    notes += _of_system(measured)
    return notes + [("Note", visible(note)) for note in measured.notes if note]


def _of_system(measured: TimedModel) -> list[tuple[str, str]]:
    """That a pass takes its memory anew from the system, where that takes a part of its time."""
    found = measured.context
    if found is None or found.system is None or found.clock != "cpu":
        return []
    seconds, faults = found.system
    share = seconds / found.end_to_end.median_s if found.end_to_end.median_s else 0.0
    if share < _SYSTEM or faults < _FAULTS:
        return []
    text = (
        f"{seconds * 1e3:.2g} ms of a pass ({share:.0%}) are the system's, for {faults:,.0f} page faults: "
        "memory that is freed goes back to it"
    )
    if platform.libc_ver()[0] == "glibc":
        text += f"; {KEEPING} in the environment keeps it"
    return [("Memory", text)]


def answers(measured: TimedModel) -> list[str]:
    """The first lines: the time of a forward pass, its tail, and what convolutions would gain alone."""
    tail = [] if measured.requests is None else [f"As requests, one after the other: {measured.requests}"]
    return [*_of_context(measured), *tail, *_alone(measured)]


def _of_context(measured: TimedModel) -> list[str]:
    found = measured.context
    if found is None:
        return []
    end = found.end_to_end
    text = (
        f"End to end: {end.median_s * 1e3:.3f} ms, spread {end.spread_s * 1e3:.3f} ms ({end.samples} passes"
    )
    text += f", {end.dropped} dropped" * bool(end.dropped) + ")"
    text += f"; {UNRELIABLE}" * end.disturbed
    text += "; in training mode" * found.training
    own = [layer.latency_ms for layer in measured.layers]
    if own and None not in own:
        others = max(0.0, found.total * 1e3 - sum(ms for ms in own if ms is not None))
        text += f"; {others:.3f} ms outside convolutions"
    text += f"; the {len(found.calls)} module calls add up to {1 + found.difference:.1%} of it"
    return [text]


def _alone(measured: TimedModel) -> list[str]:
    """The times of convolutions alone, each step with its gain."""
    known = [one for one in measured.layers if one.native_ms and one.best_ms]
    if not known:
        return []
    as_run, native, best = (
        sum(times)
        for times in zip(
            *(
                (one.as_run_ms or one.native_ms or 0.0, one.native_ms or 0.0, one.best_ms or 0.0)
                for one in known
            ),
            strict=True,
        )
    )
    some = f"{len(known)} of {len(measured.layers)} convolutions" * (len(known) < len(measured.layers))
    text = f"{some or 'Convolutions'} alone: {as_run:.3f} ms as the model runs them"
    if as_run > native:
        text += f", {native:.3f} ms in the faster layout ({ratio_text(as_run / native)} as fast)"
    if native > best:
        text += f", {best:.3f} ms by the fastest paths ({ratio_text(as_run / best)} as fast)"
    if as_run == best:
        return [f"{text}; no other path or layout is faster beyond the noise"]
    return [f"{text}; the whole model may gain less: archcost accelerate times that"]


def _of_paths(measured: TimedModel) -> list[tuple[str, str]]:
    count, times = len({call.task for call in measured.calls if call.task}), measured.convolutions
    if not count:
        return [("Paths", "the model ran no convolutions")]
    reused = sum(one.reused for one in times)
    text = f"{count} distinct convolutions"
    text += f", {reused} of them from the store" * bool(reused)
    text += f"; no time was left for {count - len(times)} of them" * (len(times) < count)
    text += f"; {len(measured.paths)} times by path and layout"
    text += "; inputs from beyond the caches" * measured.cold
    text += f"; errors up to {measured.tolerance:.0e} allowed"
    lines = [("Paths", f"{text}; took {measured.took_s:.0f} s of {measured.seconds:g}")]
    return lines


def _of_native(measured: TimedModel, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """The layouts of native_ms: a model that runs in the other one is slower in context than alone."""
    found = Counter(layer.native_layout for layer in measured.layers if layer.native_layout is not None)
    heads = {head.text for grid in grids for head in grid.heads}
    if not found or "Native ms" not in heads:
        return []
    layers = f"layer{'s' * (sum(found.values()) != 1)}"
    said = ", ".join(f"{layout} for {count}" for layout, count in found.most_common())
    text = f"PyTorch's own convolution in the faster layout of its input, {said} {layers}"
    gain = "Layout gain is how many times as fast it is there as in the layout in which the model runs it"
    text += f"; {gain}" * ("Layout gain" in heads)
    return [("Native ms", text)]


def _of_predictions(measured: TimedModel) -> list[tuple[str, str]]:
    """How far to trust the predicted times."""
    found = [one for one in map(measured.predicted, measured.layers) if one is not None]
    if not found:
        return []
    beyond = sum(one.extrapolated for one in found)
    layers = f"{len(found)} layer{'s' * (len(found) != 1)}"
    text = f"{layers} whose paths were not measured for want of time, from measurements of others here"
    text += f", {beyond} of them extrapolated, with an unknown error" * bool(beyond)
    text += "; predicted times are in no sum; prediction error is the median in cross-validation; the path's "
    text += "numerical error with the layer's own weights was not checked"
    return [("Predicted", text)]


def _of_layers(measured: TimedModel) -> list[tuple[str, str]]:
    """The notes of the rows, equal ones together."""
    alike: dict[str, list[str]] = defaultdict(list)
    for layer in measured.layers:
        if layer.note:
            alike[layer.note].append(layer.name)
    return [("Layers", f"{visible(text)}: {named(names)}") for text, names in alike.items()]
