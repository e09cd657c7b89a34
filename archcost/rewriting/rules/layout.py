"""layout: the same convolution in channels_last or on a faster path, from measurements alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from archcost.errors import ArchcostError, Refusal, RewriteError
from archcost.latency.convolutions import ConvTask, convolutions_of, layout_of
from archcost.latency.layers import verdict_of
from archcost.latency.paths import PathTimes, is_rough
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.kinds import PATH
from archcost.latency.store.measurement import Measurement
from archcost.latency.store.store import Store
from archcost.latency.timing.thresholds import UNRELIABLE
from archcost.merging.chain import Conv
from archcost.paths.registry import get
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Modules, Option, Rewrite, RuleOptions, Weights, own_weights
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.weights.moments import Moments

__all__ = ["NOT_MEASURED", "Faster", "Layout", "faster"]

NOT_MEASURED = "the store has no times of it: archcost measure, or archcost.measure(), times it on every path"
# The largest max |y - exact| / max |exact| of a path, the default of `archcost.measure`.
_TOLERANCE = 1e-4


class Layout(Rewrite):
    """The same convolution executed otherwise: weights and results stay.

    Options: ``path``, the execution path, and ``layout``, that of the weights and the output. Both come from
    stored times that are faster, beyond the noise, than PyTorch's own convolution in the layer's present
    layout. Layers are compared one by one; `archcost.accelerate` makes a program of the whole.
    """

    name = "layout"
    change = "conv -> the same in channels_last, or by another execution path"
    break_even = "time measured on this machine < PyTorch's, beyond the noise; the MACs are the same"

    def refusal(self, subject: Subject) -> Refusal | None:
        found = faster(subject)
        return found if isinstance(found, Refusal) else None

    def options(self, subject: Subject, ratio: float) -> Iterable[RuleOptions]:
        found = faster(subject)
        if not isinstance(found, Refusal):
            for one in found:
                yield {"path": one.path, "layout": one.layout}

    def replacement(
        self, subject: Subject, *, path: str = "native", layout: str = "contiguous", **unknown: Option
    ) -> Replacement:
        if unknown or layout not in ("contiguous", "channels_last"):
            raise RewriteError(
                f"{subject.name}: layout takes path='...' and layout='contiguous' or 'channels_last', not "
                f"{unknown or layout!r}"
            )
        if layout == "channels_last" and subject.axes == 1:
            raise RewriteError(
                f"{subject.name}: channels_last needs two or three spatial axes, and it has one"
            )
        refused = None if path == "native" else get(path).supports(subject.spec, subject.ops[0].args[0].dtype)
        if refused is not None:
            raise RewriteError(f"{subject.name}: path {path!r} cannot execute it: {refused}")
        conv = Conv(subject.spec, None if path == "native" else path, layout == "channels_last")
        return Replacement({subject.name: (conv,)}, exact=True, note=_note(subject, path, layout))

    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        return {replacement.name: [own_weights(modules[replacement.name])]}


@dataclass(frozen=True)
class Faster:
    """A path and a layout that were measured to be faster than a convolution's present ones."""

    path: str
    layout: str
    old_s: float
    new_s: float
    """Time of all calls of a forward pass."""
    error: float
    """Largest max |y - exact| / max |exact| of all calls, as measured."""
    disturbed: bool = False
    """Whether a time is unreliable, because other processes interrupted its samples."""


class _Times:
    """Stored times of the model's convolutions on this machine, at PyTorch's present number of threads."""

    def __init__(self, survey: Survey, store: Store) -> None:
        threads = torch.get_num_threads()
        self.found: dict[ConvTask, list[Measurement]] = defaultdict(list)
        calls = convolutions_of(survey.trace)
        tasks = {(one.task.spec, one.task.dtype): one.task for one in calls if one.task is not None}
        for one in store.all(fingerprint().hash):
            task = tasks.get((one.key.spec, one.key.dtype))
            if task is not None and (one.key.threads, one.key.kind) == (threads, PATH):
                self.found[task].append(one)
        ops = [op for op in survey.trace.ops if op.base == "aten.convolution"]
        self.tasks = {op.index: call.task for op, call in zip(ops, calls, strict=True)}


def _times(survey: Survey) -> _Times | Refusal:
    """The stored times of a survey, or why there are none."""
    if next((t.device.type for t in survey.model.parameters()), "cpu") not in ("cpu", "meta"):
        return Refusal("paths are measured on the CPU only, and the model is on another device")
    if survey.store is None:
        return Refusal(NOT_MEASURED)
    try:
        return _Times(survey, survey.store)
    except ArchcostError as error:
        return Refusal(f"the measurements cannot be read: {error}")


def faster(subject: Subject) -> list[Faster] | Refusal:
    """Every path and layout that is faster than the present one, the fastest first; or why there is none."""
    times = subject.survey.once(_times)
    if isinstance(times, Refusal):
        return times
    tables: list[dict[tuple[str, str], Measurement]] = []
    for op in subject.ops:
        task = times.tasks.get(op.index)
        rows = [] if task is None else times.found.get(task, [])
        tables.append({(one.key.path, one.key.layout): one for one in rows if _usable(one)})
    here = ("native", layout_of(subject.ops[0].args[0]))
    if any(here not in table for table in tables):
        return Refusal(NOT_MEASURED)
    found = [one for one in _candidates(tables, here) if one.new_s < one.old_s]
    if not found:
        return Refusal("no path was measured to be faster than PyTorch's on this machine, beyond the noise")
    return sorted(found, key=lambda one: one.new_s)


def _candidates(tables: list[dict[tuple[str, str], Measurement]], here: tuple[str, str]) -> Iterator[Faster]:
    """The best path in the present layout, and PyTorch's own in the other."""
    every = [way for way in tables[0] if way != here and all(way in table for table in tables)]
    old = sum(table[here].median_s for table in tables)
    same: list[Faster] = []
    for way in every:
        if not all(_is_faster(table[way], table[here]) for table in tables):
            continue
        error = max(table[way].error or 0.0 for table in tables)
        disturbed = any(table[which].disturbed for table in tables for which in (way, here))
        one = Faster(*way, old, sum(table[way].median_s for table in tables), error, disturbed)
        if way[1] == here[1]:
            same.append(one)
        elif way[0] == "native":
            yield one
    if same:
        yield min(same, key=lambda one: one.new_s)


def _is_faster(new: Measurement, old: Measurement) -> bool:
    """Whether a time is faster beyond the noise, as the tables of `archcost.measure` judge it."""
    # A name of its own, as PyTorch's two layouts count as one path there.
    rival = replace(new, key=replace(new.key, path="rival"))
    errors = {old.key.path: 0.0, "rival": 0.0}
    return (
        verdict_of(PathTimes(ConvTask(old.key.spec, old.key.dtype), (old, rival), errors, {})).best is rival
    )


def _usable(one: Measurement) -> bool:
    exact = one.key.path == "native" or (one.error is not None and one.error <= _TOLERANCE)
    return exact and not is_rough(one)


def _note(subject: Subject, path: str, layout: str) -> str:
    found = faster(subject)
    for one in () if isinstance(found, Refusal) else found:
        if (one.path, one.layout) == (path, layout):
            took = f"{1e3 * one.old_s:.3g} ms before, {1e3 * one.new_s:.3g} ms after, measured alone"
            off = "" if path == "native" else f", relative error {one.error:.0e}"
            return f"{took}, its input in {layout}{off}" + f"; {UNRELIABLE}" * one.disturbed
    return "not measured to be faster on this machine"


RULES, ORDER = (Layout(),), 80
