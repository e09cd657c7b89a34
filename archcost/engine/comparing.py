"""Comparing: the program and the original on the clock, as wholes and step by step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from archcost.engine.describing import step_seconds, step_times
from archcost.engine.findings import Asked, Findings
from archcost.engine.program import Program
from archcost.latency.timing.clock import Timing, compare_calls
from archcost.latency.timing.deadline import FEWEST, Deadline, now
from archcost.latency.timing.hooks import hook_seconds, hooked, route_of
from archcost.latency.timing.stopwatch import CpuStopwatch, WallStopwatch
from archcost.latency.timing.thresholds import TOLERANCE
from archcost.surgery.outputs import fresh
from archcost.trace.modules import walk

__all__ = ["compare"]

_ROUNDS = 25
_OWN_PASSES = 5
_PASSES = 3.0
"""A stage is tried only where it holds so many passes of the original: a first pair ends in them."""
_WARM_S = 0.05
"""A pass that takes as long fills the caches by itself: none goes before its samples."""
_FOR_EACH = 0.3
"""The share of the seconds that goes into timing steps and the original's modules one by one."""
_EACH_S = 1.0
"""For either of them no more, one pass apart."""


def compare(
    model: nn.Module,
    fast: nn.Module,
    program: Program,
    given: list[torch.Tensor],
    found: Findings,
    step: Callable[[], None],
) -> None:
    """Time the program against the model's modules, and each step against those whose work it does.

    Args:
        model: the original.
        fast: the model that runs the program.
        program: the program.
        given: the tensors of the call, contiguous.
        found: gets the times.
        step: called once the wholes are known.
    """
    asked = found.asked
    *_, most = asked.seconds
    for seconds in [one for one in asked.seconds if one >= _PASSES * found.pass_s] or [most]:
        deadline = Deadline(seconds)
        found.times(_in_turns(model, fast, found, deadline.before(_FOR_EACH * seconds)))
        if found.gains() or (found.ratio is not None and found.ratio.pairs >= FEWEST):
            break
    step()
    with torch.inference_mode():
        taken = step_seconds(program, given, deadline.within(_EACH_S))
    own = _own_ms(model, asked, deadline.within(_EACH_S), found.original_ms)
    found.steps = step_times(program, taken, own, found.original_ms, found.accelerated_ms)


def _in_turns(model: nn.Module, fast: nn.Module, found: Findings, deadline: Deadline) -> dict[str, Timing]:
    def call_of(side: nn.Module) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
        def prepare() -> Any:
            if found.pass_s < _WARM_S:
                args, kwargs = fresh(found.asked.call)
                side(*args, **kwargs)  # its own weights are in the caches again
            return fresh(found.asked.call)

        def call(given: Any) -> Any:
            args, kwargs = given
            return side(*args, **kwargs)

        return call, prepare

    both = {"original": call_of(model), "accelerated": call_of(fast)}
    with torch.inference_mode():
        return compare_calls(
            {name: call for name, (call, _) in both.items()},
            prepare={name: prepare for name, (_, prepare) in both.items()},
            rounds=_ROUNDS,
            warmup=0,
            deadline=deadline,
            cpu_clock="thread" if torch.get_num_threads() == 1 else "process",
        )


def _own_ms(
    model: nn.Module, asked: Asked, deadline: Deadline, original_ms: float | None
) -> dict[str, float] | None:
    """Own time of each module, its least over some passes with hooks; all add up to ``original_ms``."""
    if original_ms is None:
        return None
    tree, watch = walk(model), CpuStopwatch() if torch.get_num_threads() == 1 else WallStopwatch()
    hook = hook_seconds(watch, FEWEST)
    least: dict[str, float] = {}
    for _ in range(_OWN_PASSES):
        args, kwargs = fresh(asked.call)
        start = now()
        with hooked(watch) as events, torch.inference_mode():
            model(*args, **kwargs)
        if (route := route_of(events.marks, tree)) is None:
            return None
        laps, own = Counter(route.laps), defaultdict[str, float](float)
        for number, lap in enumerate(route.own_times(watch.laps(events.readings, TOLERANCE))):
            own[route.calls[number].name] += max(0.0, lap.seconds - laps[number] * hook)
        least = {name: min(seconds, least.get(name, seconds)) for name, seconds in own.items()}
        if not deadline.allows(now() - start):
            break
    whole = sum(least.values())
    return {name: original_ms * seconds / whole for name, seconds in least.items()} if whole else None
