"""A forward pass as a sequence of laps: the time between two hooks belongs to the innermost open call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Generic, TypeVar

from archcost.latency.timing.deadline import Deadline
from archcost.latency.timing.engine import Turns
from archcost.latency.timing.stopwatch import AnyStopwatch, Lap, Stopwatch
from archcost.latency.timing.thresholds import FEWEST, HOOK_MODULES, HOOK_REPEATS
from archcost.trace.modules import ModuleTree, type_name

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HookedCall", "Route", "hook_seconds", "hooked", "route_of"]

_LEAVE = None
R = TypeVar("R")


@dataclass(frozen=True)
class HookedCall:
    """A call of a module in a forward pass."""

    name: str
    """As in ``named_modules()``."""
    type: str
    """The class of the module."""
    parent: int
    """The index of the call inside which it was made; -1 for the call of the model."""
    leaf: bool
    """Whether no other module was called inside."""


@dataclass(frozen=True)
class Route:
    """The order of the calls in a pass."""

    calls: tuple[HookedCall, ...]
    """In the order in which they began."""
    laps: tuple[int, ...]
    """For each lap, the index of the call to which its time belongs."""

    def own_times(self, laps: list[Lap]) -> list[Lap]:
        """The time of each call without the calls inside it, interrupted where any of its laps was."""
        seconds, interrupted = [0.0] * len(self.calls), [False] * len(self.calls)
        for owner, lap in zip(self.laps, laps, strict=True):
            seconds[owner] += lap.seconds
            interrupted[owner] |= lap.interrupted
        return list(map(Lap, seconds, interrupted))


@dataclass
class Events(Generic[R]):
    """The record of the hooks: each module entered, or None where a module was left, and the clock then."""

    marks: list[nn.Module | None] = field(default_factory=list)
    readings: list[R] = field(default_factory=list)


@contextmanager
def hooked(watch: Stopwatch[R]) -> Iterator[Events[R]]:
    """Record every module call of this thread, of any model.

    The hooks are PyTorch's global ones, so that no model is changed.
    """
    from torch.nn.modules import module as hooks

    events: Events[R] = Events()
    mark, reading, read = events.marks.append, events.readings.append, watch.read
    mine, current = threading.get_ident(), threading.get_ident

    def entered(module: nn.Module, *_: object) -> None:
        if current() == mine:
            mark(module)
            reading(read())

    def left(*_: object) -> None:
        if current() == mine:
            reading(read())
            mark(_LEAVE)

    handles = []
    try:
        handles.append(hooks.register_module_forward_pre_hook(entered))
        handles.append(hooks.register_module_forward_hook(left, always_call=True))
        yield events
    finally:
        for handle in handles:
            handle.remove()


def route_of(marks: list[nn.Module | None], tree: ModuleTree) -> Route | None:
    """The route that the marks describe; None where they are not a single call with all others inside."""
    calls: list[tuple[str, str, int]] = []
    laps: list[int] = []
    stack: list[int] = []
    for position, module in enumerate(marks):
        if position:
            if not stack:
                return None  # something was called after the model had returned
            laps.append(stack[-1])
        if module is not _LEAVE:
            parent = stack[-1] if stack else -1
            name = tree.name_under(module, calls[parent][0]) if stack else ""
            calls.append((name, type_name(module), parent))
            stack.append(len(calls) - 1)
        elif stack:
            stack.pop()
    if stack or not calls:
        return None
    parents = {parent for _, _, parent in calls}
    made = (HookedCall(name, kind, parent, i not in parents) for i, (name, kind, parent) in enumerate(calls))
    return Route(tuple(made), tuple(laps))


def hook_seconds(
    watch: AnyStopwatch,
    repeats: int = HOOK_REPEATS,
    modules: int = HOOK_MODULES,
    deadline: Deadline | None = None,
) -> float:
    """Seconds that the hooks themselves take for each lap.

    Measured on a chain of small modules, with and without hooks in turns. Each module writes a megabyte,
    because hooks cost a third less with warm caches than in a model.

    Args:
        watch: the stopwatch that the hooks read.
        repeats: rounds; five once the deadline has passed.
        modules: the length of the chain.
        deadline: see ``repeats``.
    """
    import torch
    from torch import nn

    class Little(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(1.0)

    chain = nn.Sequential(*(Little() for _ in range(modules)))
    x = torch.zeros(2**18)

    def bare() -> Lap:
        first = watch.read()
        chain(x)
        return watch.laps([first, watch.read()], 0.0)[0]

    def watched() -> Lap:
        with hooked(watch):
            return bare()

    def enough() -> bool:
        late = deadline is not None and deadline.passed
        return turns.rounds >= (min(FEWEST, repeats) if late else repeats)

    watched()
    turns = Turns({"bare": bare, "watched": watched})
    turns.run(enough)
    pairs = zip(turns.samples["watched"], turns.samples["bare"], strict=True)
    return max(0.0, median(one.seconds - other.seconds for (_, one), (_, other) in pairs)) / (2 * modules + 2)
