"""Findings: receptive fields in words, such as layers that add no context or windows with holes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Literal

import numpy as np

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.intervals.taps import EMPTY
from archcost.fields.registry import slides
from archcost.fields.replay.read import InputAxes, centre_of, is_map, places, profile
from archcost.fields.replay.replay import Opaque, Replay
from archcost.fields.replay.support import covered, has_dilation, support_of
from archcost.trace.graph import Op, TensorRef, Trace

__all__ = ["Finding", "find_all", "padding_share"]

Kind = Literal["unproductive", "misaligned", "uncovered", "global", "unknown"]

# Operators that merge branches element by element or channel by channel.
_MERGES = {"add", "sub", "mul", "cat", "maximum", "minimum", "stack", "add_relu", "where"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A remark about the receptive fields of a model: its kind, the module, and a sentence."""

    kind: Kind
    module: str
    text: str
    amount: float = 0.0
    """For misaligned branches the distance in positions of the joined map, on the axis where it is smallest;
    of an uncovered window the share that is not read."""


Standing = Callable[[str, int], list[int]]
"""(module, input tensor) -> the calls whose union is the module's field, as indices into ``trace.calls``."""


def find_all(
    trace: Trace, replay: Replay, inputs: Sequence[InputAxes], standing: Standing
) -> tuple[Finding, ...]:
    """All findings, by kind and in order of execution."""
    return (
        *_global(trace, replay),
        *_unproductive(trace, replay, inputs),
        *_misaligned(trace, replay, inputs),
        *_uncovered(trace, inputs, standing),
        *map(_unknown, replay.opaque),
    )


def _unknown(opaque: Opaque) -> Finding:
    where = opaque.module or "the model"
    text = f"{opaque.name} in {where}: {opaque.reason}; assumed to depend on all of its inputs"
    return Finding("unknown", opaque.module, text)


def _global(trace: Trace, replay: Replay) -> Iterator[Finding]:
    """The first module that makes the field global."""
    spans = (span for seen in replay.ops if seen is not None for spans in seen.axes for span in spans)
    first = min((s.because for s in spans if s.because is not None and s.because >= 0), default=None)
    if first is not None:
        module, label = trace.module_of(trace.ops[first]), trace.ops[first].label
        where = module or "the model's own forward"
        yield Finding("global", module, f"from {where} ({label}) on, values depend on the whole input")


def _unproductive(trace: Trace, replay: Replay, inputs: Sequence[InputAxes]) -> Iterator[Finding]:
    """Layers that add no context: each position of their input sees the whole image, gates not counted.

    Source: Richter et al., "Should You Go Deeper? Optimizing Convolutional Neural Network Architectures
    without Training" (2021).
    """
    widening = (op for op in trace.ops if op.index in replay.operands and slides(op) and _widens(op))
    found = (
        trace.module_of(op)
        for op in widening
        if any(_sees_all(replay.operands[op.index][0], one) for one in inputs)
    )
    for module in dict.fromkeys(found):
        text = f"{module or 'the model'} adds no context: each position of its input sees the whole image"
        yield Finding("unproductive", module, text)


def _widens(op: Op) -> bool:
    """Whether a window has more than one tap."""
    weight = op.args[1] if len(op.args) > 1 else None
    return not isinstance(weight, TensorRef) or max(weight.shape[2:], default=1) > 1


def _windows(seen: Intervals, inputs: InputAxes) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """First pixels, last pixels and input size of the windows along each axis of a feature map."""
    centre = centre_of(seen, inputs)
    for axis, tracked, dim in zip(inputs.which, inputs.axes, centre, strict=True):
        lo, minus_hi = profile(seen, axis, dim, centre)[-2:]
        yield lo, -minus_hi, tracked.size


def _sees_all(seen: Intervals, inputs: InputAxes) -> bool:
    return is_map(seen, inputs) and all(
        (lo <= 0).all() and (hi >= size - 1).all() for lo, hi, size in _windows(seen, inputs)
    )


def padding_share(seen: Intervals, inputs: InputAxes) -> float | None:
    """The share of the windows in padding, averaged over all positions; None for no feature map.

    Windows are boxes, so that the share inside is the product of the mean shares along the axes.
    """
    if not is_map(seen, inputs):
        return None
    inside = 1.0
    for lo, hi, size in _windows(seen, inputs):
        known = lo < EMPTY // 2
        if not known.any():
            return None
        lo, hi = lo[known], hi[known]
        within = np.clip(np.minimum(hi, size - 1) - np.maximum(lo, 0) + 1, 0, None)
        inside *= float(np.mean(within / (hi - lo + 1)))
    return 1.0 - inside


def _misaligned(trace: Trace, replay: Replay, inputs: Sequence[InputAxes]) -> Iterator[Finding]:
    """Sums and concatenations of branches whose windows have different centres.

    Centres are averaged over a period, so that upsampling alone does not count.
    """
    for op in trace.ops:
        seen = replay.operands.get(op.index, ())
        name = op.base.rpartition(".")[2].rstrip("_")
        if len(seen) < 2 or name not in _MERGES:
            continue
        found = ((one, _offsets(seen, one)) for one in inputs)
        with_inputs = next((pair for pair in found if any(pair[1])), None)
        if with_inputs is not None:
            off = with_inputs[1]
            module = trace.module_of(op)
            apart = " x ".join(f"{o:g}" for o in off) if len(set(off)) > 1 else f"{off[0]:g}"
            where = module or "the model's own forward"
            text = f"{where}: the windows of branches joined by {name} are {apart} pixels apart"
            yield Finding("misaligned", module, text, _positions(seen, with_inputs[0], off))


def _positions(branches: Sequence[Intervals], inputs: InputAxes, off: Sequence[float]) -> float:
    """The offset in positions of the joined map, on the axis where it is smallest.

    0 where a branch does not move by one step, as after upsampling or in windows of attention, and along a
    single axis, where causal convolutions look back.
    """
    maps = [x for x in branches if is_map(x, inputs)]
    apart = [0.0] if len(off) < 2 else []
    for axis, dim, pixels in zip(inputs.which, centre_of(maps[0], inputs), off, strict=False):
        steps = {span.steps[dim] for x in maps for span in x.axes[axis]}
        still = all(period == 1 for period, _ in steps)
        apart.append(pixels / max(1, *(advance for _, advance in steps)) if still else 0.0)
    return min(apart)


def _offsets(branches: Sequence[Intervals], inputs: InputAxes) -> list[float]:
    """The distance in pixels between the centres of the branches' windows, per axis; empty for no maps."""
    maps = [x for x in branches if is_map(x, inputs)]
    if len(maps) < 2 or len({places(x, inputs) for x in maps}) > 1:
        return []
    off = []
    where = centre_of(maps[0], inputs)
    for axis, dim in zip(inputs.which, where, strict=True):
        period = lcm(*(s.steps[dim][0] for seen in maps for s in seen.axes[axis]))
        # The same whole period around the centre for all branches, or everything where none fits.
        first = where[dim] // period * period
        whole = first + period <= maps[0].shape[dim]
        part = slice(first, first + period) if whole else slice(None)
        centres = []
        for seen in maps:
            lo, minus_hi = profile(seen, axis, dim, where)[-2:, part]
            if (lo < EMPTY // 2).all():
                centres.append(float(np.mean(lo - minus_hi)) / 2)
        off.append(round(max(centres) - min(centres), 3) if len(centres) > 1 else 0.0)
    return off


def _uncovered(trace: Trace, inputs: Sequence[InputAxes], standing: Standing) -> list[Finding]:
    """Feature maps whose windows have pixels that no tap reads, in models with dilation."""
    found: dict[str, Finding] = {}
    for one in inputs if has_dilation(trace) else ():
        support = support_of(trace, one)
        for module in dict.fromkeys(call.module for call in trace.calls):
            each = [covered(support, call, one) for call in standing(module, one.tensor)]
            # The union of the pixels that the module's calls read.
            maps = [reads for reads in each if reads is not None and all(r.any() for r in reads)]
            counts = []
            for axis in zip(*maps, strict=True):
                read = np.logical_or.reduce(axis)
                counts.append((int(read.sum()), int(np.ptp(np.flatnonzero(read))) + 1))
            if any(a < b for a, b in counts):
                share = float(1 - np.prod([a / b for a, b in counts]))
                text = f"{module or 'the model'} leaves {100 * share:.0f} % of its window unread"
                found.setdefault(module, Finding("uncovered", module, text, share))
    return list(found.values())
