"""Each convolution of a model with both kinds of time: in context, and alone on each path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

from archcost.latency.convolutions import ConvCall, ConvTask
from archcost.latency.paths import PathTimes, is_rough
from archcost.latency.prediction.roofline import Roofline, bytes_moved
from archcost.latency.store.measurement import Measurement
from archcost.latency.timing.parts import CallTime, InContext
from archcost.latency.timing.thresholds import MOST_NOISE, NOISE, STANDARD_ERROR, UNRELIABLE
from archcost.paths.likely import without_kernel
from archcost.spec import ConvSpec

__all__ = ["EAGER", "LayerTime", "PathVerdict", "layer_times", "verdict_of"]

EAGER = ("native", "native-channels-last")
"""The paths that a model takes by itself, in one layout or the other."""
NOT_MEASURED = "no time was left to measure its paths"
ROUGH = "timed by a few samples only; give more seconds"
NOT_FASTER = "no path that was timed and keeps the tolerance is faster beyond the noise"


@dataclass(frozen=True)
class LayerTime:
    """A convolution call of the model with its times. None: not measured; ``note`` says why."""

    name: str
    """The name of the module that made the call, as in ``named_modules()``."""
    type: str
    """The class of that module."""
    call: int
    """0 for the module's first call in a pass, 1 for the second."""
    spec: ConvSpec | None
    dtype: str | None
    latency_ms: float | None
    """Median time in context: the module's own time inside real forward passes."""
    latency_spread_ms: float | None
    """The interquartile range of ``latency_ms``."""
    native_ms: float | None
    """Median time alone of PyTorch's own convolution, in the faster of both layouts."""
    native_layout: str | None
    """The layout of ``native_ms``: ``contiguous`` or ``channels_last``."""
    best_ms: float | None
    """Median time alone of the fastest path within the tolerance; PyTorch's own where none is faster."""
    best_spread_ms: float | None
    """The interquartile range of ``best_ms``."""
    best_path: str | None
    """The name of that path."""
    best_layout: str | None
    """The layout of the best path's input, and as a rule of its output."""
    speedup: float | None
    """``native_ms / best_ms``."""
    error: float | None
    """max |y - exact| / max |exact| of the best path, with this layer's weights on a real input."""
    multiplications: int | None
    """Multiplications of data by weights on the best path."""
    workspace_bytes: int | None
    """Workspace of the best path, prepared weights included; unknown for PyTorch's own."""
    roofline_share: float | None
    """The lower bound of this machine's roofline over the best path's time: 1 is as fast as possible."""
    note: str | None
    """Why something is missing or doubtful."""
    layout_speedup: float | None = None
    """Time alone of PyTorch's own convolution in the layout in which the model runs it, over ``native_ms``.

    It is 1 where the difference is within the noise.
    """
    disturbed: bool = False
    """Whether ``native_ms`` or ``best_ms`` is unreliable, because other processes interrupted its samples."""

    @property
    def as_run_ms(self) -> float | None:
        """Median time alone of PyTorch's own convolution in the layout in which the model runs it."""
        if self.native_ms is None or self.layout_speedup is None:
            return None
        return self.native_ms * self.layout_speedup

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of the convolution by its definition; None without a spec."""
        return None if self.spec is None else self.spec.macs


@dataclass(frozen=True)
class PathVerdict:
    """The outcome for one convolution: PyTorch's own time, and the fastest."""

    native: Measurement | None
    best: Measurement | None
    note: str | None = None


def verdict_of(found: PathTimes) -> PathVerdict:
    """The fastest path beyond the noise; by rough times only where there are no others."""
    exact = [one for one in found.measurements if one.key.path in found.errors]
    timed = [one for one in exact if not is_rough(one)] or exact
    if not timed:
        return PathVerdict(None, None, "no path could run it")
    own = [one for one in timed if one.key.path in EAGER]
    native = min(own, key=lambda one: one.median_s, default=None)
    best = min(timed, key=lambda one: one.median_s)
    if native is None:
        return PathVerdict(None, best)
    if not _is_faster(best, native):
        note = ROUGH if is_rough(native) else f"{NOT_FASTER}{without_kernel(found.refused)}"
        return PathVerdict(native, native, note)
    return PathVerdict(native, best, ROUGH if is_rough(best) else None)


def layer_times(
    calls: Sequence[ConvCall],
    found: Mapping[ConvTask, PathTimes],
    context: InContext | None,
    roofline: Roofline | None,
) -> tuple[LayerTime, ...]:
    """A row for each convolution call; times measured once stand in the row of every layer that shares them.

    Args:
        calls: the convolutions of the model, in the order in which they ran.
        found: the path times, by distinct convolution.
        context: the times in context, where they were measured.
        roofline: of this machine, where it was measured.
    """
    owners = {(one.name, one.call): one for one in context.calls} if context is not None else {}
    verdicts = {task: verdict_of(times) for task, times in found.items()}
    return tuple(_row(call, found, verdicts, owners.get((call.name, call.call)), roofline) for call in calls)


def _row(
    call: ConvCall,
    found: Mapping[ConvTask, PathTimes],
    verdicts: Mapping[ConvTask, PathVerdict],
    owner: CallTime | None,
    roofline: Roofline | None,
) -> LayerTime:
    from archcost.paths.registry import get

    task = call.task
    verdict = PathVerdict(None, None, call.refusal)
    if task is not None:
        verdict = verdicts.get(task, PathVerdict(None, None, NOT_MEASURED))
    notes = [verdict.note] if verdict.note else []
    if owner is not None and not call.alone:
        notes.append(f"in context only as part of its {call.type}, which does more; see .context")
        owner = None
    native, best = verdict.native, verdict.best
    path = None if best is None else best.key.path
    count = workspace = share = error = by_layout = None
    if task is not None and best is not None and path is not None:
        itemsize = 8 if task.dtype == "float64" else 4
        count = get(path).multiplications(task.spec)
        workspace = get(path).workspace_bytes(task.spec, itemsize)
        error = found[task].errors.get(path)
        if roofline is not None and roofline.dtype == task.dtype and best.median_s > 0:
            share = roofline.share(best.median_s, count, bytes_moved(task.spec, itemsize))
        if native is not None:
            by_layout = _layout_speedup(call.layout, found[task], native)
        doubtful = {"native_ms": native, "best_ms": best}
        names = [name for name, one in doubtful.items() if one is not None and one.disturbed]
        if names:
            notes.append(f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} {UNRELIABLE}")
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
        layout_speedup=by_layout,
        disturbed=any(one is not None and one.disturbed for one in (native, best)),
    )


def _layout_speedup(layout: str, found: PathTimes, native: Measurement) -> float | None:
    """The gain from the faster layout alone, beyond the noise."""
    as_run = [one for one in found.measurements if (one.key.path, one.key.layout) == ("native", layout)]
    if not as_run or is_rough(as_run[0]):
        return None
    return as_run[0].median_s / native.median_s if _is_faster(native, as_run[0]) else 1.0


def _is_faster(new: Measurement, old: Measurement) -> bool:
    """Whether a time is shorter by more than the noise."""
    noise = min(_noise(old) + _noise(new), MOST_NOISE * old.median_s)
    return old.median_s - new.median_s > max(NOISE * old.median_s, noise)


def _noise(one: Measurement) -> float:
    """Twice the standard error of the median, estimated from the interquartile range."""
    return inf if one.spread_s is None else 2 * STANDARD_ERROR * one.spread_s / sqrt(one.samples)
