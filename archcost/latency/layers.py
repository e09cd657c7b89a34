"""Each convolution of a model with its two kinds of time: what it took in context, and alone on its paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

from archcost.latency.convolutions import ConvCall, Task
from archcost.latency.paths import PathTimes, is_rough
from archcost.latency.prediction.roofline import Roofline, bytes_moved
from archcost.latency.store.measurement import Measurement
from archcost.latency.timing.parts import CallTime, InContext
from archcost.latency.timing.thresholds import MOST_NOISE, NOISE, STANDARD_ERROR
from archcost.paths.likely import without_kernel
from archcost.spec import ConvSpec

__all__ = ["EAGER", "LayerTime", "Verdict", "layer_times", "verdict_of"]

EAGER = ("native", "native-channels-last")
"""The paths that a model takes by itself, in one layout or the other."""
NOT_MEASURED = "there was no time to measure its paths"
ROUGH = "timed in a first look only: more seconds would tell"
NOT_FASTER = "no eligible path that was timed is faster beyond the noise"


@dataclass(frozen=True)
class LayerTime:
    """One convolution of a pass. None is what was not measured, and ``note`` says why."""

    name: str
    type: str
    call: int
    """0 for the module's first call in a pass, 1 for the second."""
    spec: ConvSpec | None
    dtype: str | None
    latency_ms: float | None
    """In context: the module's own time inside real forward passes."""
    latency_spread_ms: float | None
    native_ms: float | None
    """Alone: PyTorch's own convolution in the faster of both layouts."""
    native_layout: str | None
    best_ms: float | None
    """Alone: the fastest eligible path, which is ``native`` where none is faster."""
    best_spread_ms: float | None
    best_path: str | None
    best_layout: str | None
    """Of the input; the output is in the same, as a rule."""
    speedup: float | None
    """``native_ms / best_ms``."""
    error: float | None
    """Of the best path, max |y - exact| / max |exact| with this layer's weights on a real input."""
    multiplications: int | None
    """Of the best path."""
    workspace_bytes: int | None
    """Of the best path, prepared weights included; PyTorch does not tell its own."""
    roofline_share: float | None
    """How much of what multiplications and bytes allow on this machine the best path reaches."""
    note: str | None

    @property
    def macs(self) -> int | None:
        """The convolution's, by definition."""
        return None if self.spec is None else self.spec.macs


@dataclass(frozen=True)
class Verdict:
    """The outcome for one convolution: PyTorch's own time, and the fastest."""

    native: Measurement | None
    best: Measurement | None
    note: str | None = None


def verdict_of(found: PathTimes) -> Verdict:
    """Which path is the fastest beyond the noise; of the first look alone where there is nothing else."""
    exact = [one for one in found.measurements if one.key.path in found.errors]
    timed = [one for one in exact if not is_rough(one)] or exact
    if not timed:
        return Verdict(None, None, "no path could be run")
    own = [one for one in timed if one.key.path in EAGER]
    native = min(own, key=lambda one: one.median_s, default=None)
    best = min(timed, key=lambda one: one.median_s)
    if native is None:
        return Verdict(None, best)
    gain = native.median_s - best.median_s
    noise = min(_noise(native) + _noise(best), MOST_NOISE * native.median_s)
    if gain <= max(NOISE * native.median_s, noise):
        note = ROUGH if is_rough(native) else f"{NOT_FASTER}{without_kernel(found.refused)}"
        return Verdict(native, native, note)
    return Verdict(native, best, ROUGH if is_rough(best) else None)


def layer_times(
    calls: Sequence[ConvCall],
    found: Mapping[Task, PathTimes],
    context: InContext | None,
    roofline: Roofline | None,
) -> tuple[LayerTime, ...]:
    """One row a convolution call; what was measured once stands in the row of every layer that shares it."""
    owners = {(one.name, one.call): one for one in context.calls} if context is not None else {}
    verdicts = {task: verdict_of(times) for task, times in found.items()}
    return tuple(_row(call, found, verdicts, owners.get((call.name, call.call)), roofline) for call in calls)


def _row(
    call: ConvCall,
    found: Mapping[Task, PathTimes],
    verdicts: Mapping[Task, Verdict],
    owner: CallTime | None,
    roofline: Roofline | None,
) -> LayerTime:
    from archcost.paths.registry import get

    task = call.task
    verdict = Verdict(None, None, call.refusal)
    if task is not None:
        verdict = verdicts.get(task, Verdict(None, None, NOT_MEASURED))
    notes = [verdict.note] if verdict.note else []
    if owner is not None and not call.alone:
        notes.append(f"the {call.type} around it does more than this, and is timed as a whole in .context")
        owner = None
    native, best = verdict.native, verdict.best
    path = None if best is None else best.key.path
    count = workspace = share = error = None
    if task is not None and best is not None and path is not None:
        itemsize = 8 if task.dtype == "float64" else 4
        count = get(path).multiplications(task.spec)
        workspace = get(path).workspace_bytes(task.spec, itemsize)
        error = found[task].errors.get(path)
        if roofline is not None and roofline.dtype == task.dtype and best.median_s > 0:
            share = roofline.share(best.median_s, count, bytes_moved(task.spec, itemsize))
        if best.disturbed:
            notes.append("disturbed: every sample was interrupted")
    return LayerTime(
        name=call.name,
        type=call.type,
        call=call.call,
        spec=None if task is None else task.spec,
        dtype=None if task is None else task.dtype,
        latency_ms=None if owner is None else owner.median_s * 1e3,
        latency_spread_ms=None if owner is None or owner.samples < 2 else owner.spread_s * 1e3,
        native_ms=None if native is None else native.median_s * 1e3,
        native_layout=None if native is None else native.key.layout,
        best_ms=None if best is None else best.median_s * 1e3,
        best_spread_ms=None if best is None or best.spread_s is None else best.spread_s * 1e3,
        best_path=path,
        best_layout=None if best is None else best.key.layout,
        speedup=native.median_s / best.median_s if native and best and best.median_s else None,
        error=error,
        multiplications=count,
        workspace_bytes=workspace,
        roofline_share=share,
        note="; ".join(notes) or None,
    )


def _noise(one: Measurement) -> float:
    """How far the median may be off: twice its standard error, from the interquartile range."""
    return inf if one.spread_s is None else 2 * STANDARD_ERROR * one.spread_s / sqrt(one.samples)
