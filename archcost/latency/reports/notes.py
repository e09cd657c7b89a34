"""What stands around the table of what was measured: on what, how well, and what it means."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from archcost.report.notes import Explanations, explained, named
from archcost.report.text import visible
from archcost.report.units import ratio_text

if TYPE_CHECKING:
    from archcost.latency.timed import TimedModel
    from archcost.report.grid import Grid

__all__ = ["heading", "notes_of"]

_UNITS: Explanations = (
    ("medians in ms", ()),
    ("in context is inside real forward passes", ("In context ms",)),
    (
        "native and best are each convolution alone on a warm cache, and compare with each other only",
        ("Native ms", "Best ms", "Speedup"),
    ),
    ("1 MB is 10^6 bytes", ("Workspace",)),
)


def heading(measured: TimedModel) -> tuple[str, str]:
    """Which model, on which inputs, in which state."""
    name, kind = visible(measured.name), visible(measured.type)
    model = name if name == kind else f"{name} ({kind})"
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    return model, f"input {visible(measured.input)}, {threads}"


def notes_of(measured: TimedModel, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """``(what, text)`` pairs, in plain text; columns are explained where a grid has them."""
    notes = [("Interrupted", "what follows is what had been measured by then")] * measured.interrupted
    notes += _of_context(measured)
    notes += _of_paths(measured)
    notes += _of_native(measured, grids)
    notes += _of_predictions(measured)
    notes += _of_layers(measured)
    if measured.roofline is not None:
        line = measured.roofline
        text = f"{line.macs_per_second / 1e9:.1f} G multiply-adds/s, {line.bytes_per_second / 1e9:.1f} GB/s"
        more = "a path can reach more than 100 % of it while its data are in a cache"
        notes.append(("Roofline", f"{text} at most on this machine, measured; {more}"))
    notes.append(("Device", visible(measured.device)))
    notes.append(("Units", explained(_UNITS, grids)))
    return notes + [("Note", visible(note)) for note in measured.notes if note]


def _of_context(measured: TimedModel) -> list[tuple[str, str]]:
    found = measured.context
    if found is None:
        return []
    end = found.end_to_end
    text = f"{end.median_s * 1e3:.3f} ms, spread {end.spread_s * 1e3:.3f} ms ({end.samples} passes"
    text += f", {end.dropped} dropped" * bool(end.dropped) + ", DISTURBED" * end.disturbed + ")"
    text += f"; the {len(found.calls)} module calls add up to {1 + found.difference:.1%} of it"
    text += "; in training mode" * found.training
    own = [layer.latency_ms for layer in measured.layers]
    if own and None not in own:
        others = max(0.0, found.total * 1e3 - sum(ms for ms in own if ms is not None))
        text += f"; {others:.3f} ms are not in convolutions"
    return [("End to end", text)]


def _of_paths(measured: TimedModel) -> list[tuple[str, str]]:
    count, times = len({call.task for call in measured.calls if call.task}), measured.convolutions
    if not count:
        return [("Paths", "there are no convolutions in this pass")]
    reused = sum(one.reused for one in times)
    text = f"{count} distinct convolutions, {len(measured.paths)} times by path and layout"
    text += f", {reused} of the convolutions from the store" * bool(reused)
    text += f"; {count - len(times)} of them not reached" * (len(times) < count)
    text += "; inputs from beyond the caches" * measured.cold
    text += f"; errors up to {measured.tolerance:.0e} allowed"
    lines = [("Paths", f"{text}; took {measured.took_s:.0f} s of {measured.seconds:g}")]
    pairs = [(layer.native_ms, layer.best_ms) for layer in measured.layers]
    known = [(native, best) for native, best in pairs if native is not None and best is not None]
    if known and len(known) == len(pairs) and sum(best for _, best in known):
        native, best = sum(one for one, _ in known), sum(one for _, one in known)
        said = f"{native:.3f} ms native, {best:.3f} ms each on its best path: {ratio_text(native / best)}"
        lines.append(
            ("Alone", f"{said}; the model as a whole may gain less, which archcost.accelerate finds")
        )
    return lines


def _of_native(measured: TimedModel, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """In which layout: the model may run in the other, and is then slower in context than alone."""
    found = Counter(layer.native_layout for layer in measured.layers if layer.native_layout is not None)
    if not found or not any(head.text == "Native ms" for grid in grids for head in grid.heads):
        return []
    layers = f"layer{'s' * (sum(found.values()) != 1)}"
    said = ", ".join(f"{layout} for {count}" for layout, count in found.most_common())
    text = f"PyTorch's own convolution in the faster layout of its input, {said} {layers}"
    as_it_runs = "; as the model runs it, in the layout that it has: In context ms"
    return [("Native ms", text + as_it_runs * (measured.context is not None))]


def _of_predictions(measured: TimedModel) -> list[tuple[str, str]]:
    """What a predicted time is, and is not."""
    found = [one for one in map(measured.predicted, measured.layers) if one is not None]
    if not found:
        return []
    beyond = sum(one.extrapolated for one in found)
    layers = f"{len(found)} layer{'s' * (len(found) != 1)}"
    text = f"{layers} whose paths time did not reach, by what was measured of others here"
    text += f", {beyond} of them beyond what was measured, with an unknown error" * bool(beyond)
    text += "; these are no measured times and in no sum; the error is the median of such predictions of "
    text += "measurements left out; how exact the path is with the layer's own weights was not looked at"
    return [("Predicted", text)]


def _of_layers(measured: TimedModel) -> list[tuple[str, str]]:
    """The notes of the rows, those that are alike together."""
    alike: dict[str, list[str]] = defaultdict(list)
    for layer in measured.layers:
        if layer.note:
            alike[layer.note].append(layer.name)
    return [("Layers", f"{visible(text)}: {named(names)}") for text, names in alike.items()]
