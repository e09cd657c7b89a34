"""What the numbers mean, in words: where a layer gains nothing, sees padding, or leaves pixels out."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Literal, Protocol

import numpy as np

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.intervals.taps import EMPTY
from archcost.fields.registry import slides
from archcost.fields.replay.read import InputAxes, is_map, places, profile
from archcost.fields.replay.replay import Opaque, Replay
from archcost.fields.replay.support import covered, has_dilation, support_of
from archcost.trace.graph import Op, TensorRef, Trace

__all__ = ["Finding", "find_all", "padding_share"]

Kind = Literal["unproductive", "misaligned", "uncovered", "global", "unknown"]

# Operators that merge branches element by element or channel by channel.
_MERGES = {"add", "sub", "mul", "cat", "maximum", "minimum", "stack", "add_relu", "where"}


class Fields(Protocol):
    """What is looked at here: see `archcost.fields.fields.Fields`, which is one."""

    trace: Trace
    replay: Replay

    @property
    def inputs(self) -> tuple[InputAxes, ...]: ...

    @property
    def opaque(self) -> tuple[Opaque, ...]: ...

    def standing(self, layer: str, of: int | None = None) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about the fields of a model: of which kind, at which module, and in words."""

    kind: Kind
    module: str
    text: str


def find_all(fields: Fields) -> tuple[Finding, ...]:
    """Every finding, by kind and in the order of execution."""
    return (
        *_global(fields),
        *_unproductive(fields),
        *_misaligned(fields),
        *_uncovered(fields),
        *_unknown(fields),
    )


def _global(fields: Fields) -> list[Finding]:
    """The first module that makes the field global; later ones change nothing."""
    first = min(
        (
            s.because
            for seen in fields.replay.ops
            if seen is not None
            for spans in seen.axes
            for s in spans
            if s.because is not None and s.because >= 0
        ),
        default=None,
    )
    if first is None:
        return []
    module = fields.trace.module_of(fields.trace.ops[first])
    operator = fields.trace.ops[first].base.rpartition(".")[2].strip("_")
    where = module or "the model's own forward"
    text = f"from {where} ({operator}) on, values depend on the whole input"
    return [Finding("global", module, text)]


def _unproductive(fields: Fields) -> list[Finding]:
    """Windows over maps each of whose positions already sees the whole input, gates aside.

    Richter et al., "Should You Go Deeper? Optimizing Convolutional Neural Network Architectures without
    Training" (2021): such layers add no context.
    """
    found: dict[str, int] = {}
    for op in fields.trace.ops:
        if not slides(op) or not _widens(op) or op.index not in fields.replay.operands:
            continue
        seen = fields.replay.operands[op.index][0]
        if any(is_map(seen, inputs) and _sees_all(seen, inputs) for inputs in fields.inputs):
            found.setdefault(fields.trace.module_of(op), op.index)
    return [
        Finding(
            "unproductive",
            module,
            f"{module or 'the model'} gains no context: each position of its input sees the whole image",
        )
        for module in found
    ]


def _widens(op: Op) -> bool:
    """Whether it reads more than one position: a kernel of more than one tap."""
    weight = op.args[1] if len(op.args) > 1 else None
    if isinstance(weight, TensorRef):
        return max(weight.shape[2:], default=1) > 1
    return True


def _sees_all(seen: Intervals, inputs: InputAxes) -> bool:
    centre = {d: seen.shape[d] // 2 for d in places(seen, inputs)}
    for axis, tracked, dim in zip(inputs.which, inputs.axes, centre, strict=True):
        lo, minus_hi = profile(seen, axis, dim, centre)[-2:]
        if (lo > 0).any() or (-minus_hi < tracked.size - 1).any():
            return False
    return True


def padding_share(seen: Intervals, inputs: InputAxes) -> float | None:
    """The share of a window that lies outside the input, averaged over all positions; None if it is no map.

    Windows are boxes, so the share inside is a product over the axes of mean shares along each.
    """
    if not is_map(seen, inputs):
        return None
    centre = {d: seen.shape[d] // 2 for d in places(seen, inputs)}
    inside = 1.0
    for axis, tracked, dim in zip(inputs.which, inputs.axes, centre, strict=True):
        lo, minus_hi = profile(seen, axis, dim, centre)[-2:]
        known = lo < EMPTY // 2
        if not known.any():
            return None
        lo, hi = lo[known], -minus_hi[known]
        within = np.clip(np.minimum(hi, tracked.size - 1) - np.maximum(lo, 0) + 1, 0, None)
        inside *= float(np.mean(within / (hi - lo + 1)))
    return 1.0 - inside


def _misaligned(fields: Fields) -> list[Finding]:
    """Sums and concatenations of branches whose windows have different centres.

    The centres are averaged over a period, so that upsampling by itself is no finding.
    """
    found = []
    for op in fields.trace.ops:
        seen = fields.replay.operands.get(op.index, ())
        if len(seen) < 2 or op.base.rpartition(".")[2].rstrip("_") not in _MERGES:
            continue
        for inputs in fields.inputs:
            maps = [x for x in seen if is_map(x, inputs)]
            if len(maps) < 2 or len({places(x, inputs) for x in maps}) > 1:
                continue
            off = _offsets(maps, inputs)
            if any(off):
                module = fields.trace.module_of(op)
                apart = " x ".join(f"{o:g}" for o in off) if len(set(off)) > 1 else f"{off[0]:g}"
                where = module or "the model's own forward"
                name = op.base.rpartition(".")[2].rstrip("_")
                text = f"{where}: branches that meet in {name} lie {apart} pixels apart"
                found.append(Finding("misaligned", module, text))
                break
    return found


def _offsets(maps: list[Intervals], inputs: InputAxes) -> list[float]:
    """For each axis, how far the centres of the branches' windows lie apart, in pixels."""
    off = []
    where = {d: maps[0].shape[d] // 2 for d in places(maps[0], inputs)}
    for axis, dim in zip(inputs.which, where, strict=True):
        period = lcm(*(s.steps[dim][0] for seen in maps for s in seen.axes[axis]))
        # A whole period around the centre, the same for all branches; all there is where none fits in.
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


def _uncovered(fields: Fields) -> list[Finding]:
    """Feature maps whose windows have holes that no path reaches, in models with dilation."""
    if not has_dilation(fields.trace):
        return []
    found: dict[str, Finding] = {}
    for inputs in fields.inputs:
        support = support_of(fields.trace, inputs)
        for module in dict.fromkeys(call.module for call in fields.trace.calls):
            each = [covered(support, call, inputs) for call in fields.standing(module, inputs.tensor)]
            # Of several calls that stand for the module, what any of them reads.
            maps = [reads for reads in each if reads is not None and all(r.any() for r in reads)]
            counts = []
            for axis in zip(*maps, strict=True):
                read = np.logical_or.reduce(axis)
                counts.append((int(read.sum()), int(np.ptp(np.flatnonzero(read))) + 1))
            if any(a < b for a, b in counts):
                share = 100 * (1 - np.prod([a / b for a, b in counts]))
                text = f"{module or 'the model'} leaves {share:.0f} % of its window unread"
                found.setdefault(module, Finding("uncovered", module, text))
    return list(found.values())


def _unknown(fields: Fields) -> list[Finding]:
    return [
        Finding("unknown", o.module, f"{o.name} in {o.module or 'the model'}: {o.reason}; taken to see all")
        for o in fields.opaque
    ]
