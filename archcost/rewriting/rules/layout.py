"""layout: the same convolution in channels_last, or on a faster execution path. From measurements only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from archcost.errors import ArchcostError, RewriteError
from archcost.merging.chain import Conv
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Options, Rewrite, Weights
from archcost.rewriting.survey.subjects import Pass, Subject

if TYPE_CHECKING:
    from torch import nn

    from archcost.latency.convolutions import Task
    from archcost.latency.store.measurement import Measurement
    from archcost.latency.store.store import Store
    from archcost.weights.moments import Moments

__all__ = ["NOT_MEASURED", "Layout", "looking_in"]

NOT_MEASURED = "not measured here: archcost measure, or archcost.measure(), times it on every path"
# The largest max |y - exact| / max |exact| of a path, as `archcost.measure` asks for by default.
_TOLERANCE = 1e-4

_store: ContextVar[Store | None] = ContextVar("store", default=None)


@contextmanager
def looking_in(store: Store) -> Iterator[None]:
    """Inside, measurements are looked up there, and not in the user's own store."""
    token = _store.set(store)
    try:
        yield
    finally:
        _store.reset(token)


class Layout(Rewrite):
    """Another way to execute a convolution. Its weights and what it computes stay.

    Options: ``path``, and ``layout`` of the weights and the output. Both are what the store has as faster,
    beyond the noise, than PyTorch's own convolution in the layout that the layer has now. Single layers are
    compared; `archcost.accelerate` chooses for the network as a whole, conversions included.
    """

    name = "layout"
    change = "conv -> the same in channels_last, or by another execution path"
    break_even = "time measured here < PyTorch's, by more than the noise; the MACs are the same"

    def refusal(self, subject: Subject) -> str | None:
        found = _found(subject)
        return found if isinstance(found, str) else None

    def options(self, subject: Subject, ratio: float) -> Iterable[Options]:
        found = _found(subject)
        if not isinstance(found, str):
            for one in found:
                yield {"path": one.path, "layout": one.layout}

    def replacement(
        self, subject: Subject, *, path: str = "native", layout: str = "contiguous", **unknown: Any
    ) -> Replacement:
        from archcost.paths.registry import get

        if unknown or layout not in ("contiguous", "channels_last"):
            raise RewriteError(
                f"{subject.name}: layout takes path='...' and layout='contiguous' or 'channels_last', not "
                f"{unknown or layout!r}"
            )
        if layout == "channels_last" and subject.axes == 1:
            raise RewriteError(f"{subject.name}: channels_last is a layout of two or three axes, it has one")
        refused = None if path == "native" else get(path).supports(subject.spec, subject.ops[0].args[0].dtype)
        if refused is not None:
            raise RewriteError(f"{subject.name}: {path} does not execute it: {refused}")
        conv = Conv(subject.spec, None if path == "native" else path, layout == "channels_last")
        return Replacement({subject.name: (conv,)}, exact=True, note=_note(subject, path, layout))

    def carry(
        self, modules: Mapping[str, nn.Module], replacement: Replacement, moments: Moments | None = None
    ) -> Weights:
        module: Any = modules[replacement.name]
        bias = module.bias
        weights = module.weight.detach().double(), None if bias is None else bias.detach().double()
        return {replacement.name: [weights]}


@dataclass(frozen=True)
class _Faster:
    path: str
    layout: str
    old_s: float
    new_s: float
    """Of all calls of one pass."""
    error: float
    """max |y - exact| / max |exact| as measured, the largest of all calls."""


class _Times:
    """What the store has of this machine, at PyTorch's present number of threads; and the model's calls."""

    def __init__(self, around: Pass, store: Store) -> None:
        import torch

        from archcost.latency.convolutions import convolutions_of
        from archcost.latency.store.fingerprint import fingerprint
        from archcost.latency.store.kinds import PATH

        threads = torch.get_num_threads()
        self.found: dict[Task, list[Measurement]] = defaultdict(list)
        calls = convolutions_of(around.trace)
        tasks = {(one.task.spec, one.task.dtype): one.task for one in calls if one.task is not None}
        for one in store.all(fingerprint().hash):
            task = tasks.get((one.key.spec, one.key.dtype))
            if task is not None and (one.key.threads, one.key.kind) == (threads, PATH):
                self.found[task].append(one)
        ops = [op for op in around.trace.ops if op.base == "aten.convolution"]
        self.tasks = {op.index: call.task for op, call in zip(ops, calls, strict=True)}


_read: WeakKeyDictionary[Pass, tuple[Store | None, _Times | str]] = WeakKeyDictionary()


def _times(around: Pass) -> _Times | str:
    """Read once for a pass; or why there is nothing to read."""
    given = _store.get()
    known = _read.get(around)
    if known is None or known[0] is not given:
        known = _read[around] = given, _opened(around, given)
    return known[1]


def _opened(around: Pass, given: Store | None) -> _Times | str:
    from archcost.latency.store.store import Store, default_path

    if next((t.device.type for t in around.model.parameters()), "cpu") not in ("cpu", "meta"):
        return "paths are measured on the CPU only, and the model is elsewhere"
    if given is None and not Path(default_path()).exists():
        return NOT_MEASURED
    try:
        if given is not None:
            return _Times(around, given)
        with Store() as store:
            return _Times(around, store)
    except ArchcostError as error:
        return f"the measurements cannot be read: {error}"


def _found(subject: Subject) -> list[_Faster] | str:
    """Every way that is faster than what PyTorch does now, the fastest first; or why there is none."""
    times = _times(subject.around)
    if isinstance(times, str):
        return times
    tables: list[dict[tuple[str, str], Measurement]] = []
    for op in subject.ops:
        task = times.tasks.get(op.index)
        rows = [] if task is None else times.found.get(task, [])
        tables.append({(one.key.path, one.key.layout): one for one in rows if _usable(one)})
    here = ("native", _layout_of(subject))
    if any(here not in table for table in tables):
        return NOT_MEASURED
    faster = [one for one in _candidates(tables, here) if one.new_s < one.old_s]
    if not faster:
        return "no path was measured here to be faster than PyTorch's, beyond the noise"
    return sorted(faster, key=lambda one: one.new_s)


def _candidates(tables: list[dict[tuple[str, str], Measurement]], here: tuple[str, str]) -> Iterator[_Faster]:
    """The best path in the layout that there is now, and PyTorch's own in the other."""
    every = [way for way in tables[0] if way != here and all(way in table for table in tables)]
    old = sum(table[here].median_s for table in tables)
    same: list[_Faster] = []
    for way in every:
        if not all(_is_faster(table[way], table[here]) for table in tables):
            continue
        error = max(table[way].error or 0.0 for table in tables)
        one = _Faster(*way, old, sum(table[way].median_s for table in tables), error)
        if way[1] == here[1]:
            same.append(one)
        elif way[0] == "native":
            yield one
    if same:
        yield min(same, key=lambda one: one.new_s)


def _is_faster(new: Measurement, old: Measurement) -> bool:
    """Beyond the noise, as the tables of `archcost.measure` have it."""
    from archcost.latency.convolutions import Task
    from archcost.latency.layers import verdict_of
    from archcost.latency.paths import PathTimes

    # Under a name of its own: there, PyTorch's two layouts are one way.
    rival = replace(new, key=replace(new.key, path="rival"))
    errors = {old.key.path: 0.0, "rival": 0.0}
    return verdict_of(PathTimes(Task(old.key.spec, old.key.dtype), (old, rival), errors, {})).best is rival


def _usable(one: Measurement) -> bool:
    from archcost.latency.paths import is_rough

    exact = one.key.path == "native" or (one.error is not None and one.error <= _TOLERANCE)
    return exact and not is_rough(one)


def _layout_of(subject: Subject) -> str:
    """Of the input of the first call."""
    x = subject.ops[0].args[0]
    order = sorted(range(len(x.shape)), key=lambda axis: (-x.stride[axis], axis))
    several = [axis for axis in order if x.shape[axis] > 1]
    last = len(x.shape) > 3 and several and several[-1] == 1 and x.shape[1] > 1
    return "channels_last" if last and x.stride[1] == 1 else "contiguous"


def _note(subject: Subject, path: str, layout: str) -> str:
    found = _found(subject)
    for one in () if isinstance(found, str) else found:
        if (one.path, one.layout) == (path, layout):
            took = f"{1e3 * one.old_s:.3g} ms before, {1e3 * one.new_s:.3g} ms after, measured here alone"
            off = "" if path == "native" else f", relative error {one.error:.0e}"
            return f"{took}, its input in {layout}{off}"
    return "not measured here to be faster"
