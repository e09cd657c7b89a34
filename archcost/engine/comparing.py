"""Comparing: the program and the original on the clock, as wholes and step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from archcost.engine.describing import step_seconds, step_times
from archcost.engine.findings import Asked, Findings
from archcost.engine.program import Program
from archcost.errors import ArchcostError
from archcost.latency.timing.clock import Timing, compare_calls
from archcost.latency.timing.context import time_in_context
from archcost.latency.timing.deadline import FEWEST, Deadline
from archcost.surgery.outputs import fresh

__all__ = ["compare"]

_ROUNDS = 25
_STEP_PASSES = 7
_PASSES = 3.0
"""A stage is tried only where it holds so many passes of the original: a first pair ends in them."""
_WARM_S = 0.2
"""A pass that takes as long fills the caches by itself: none goes before its samples."""
_FOR_MODULES = 0.3
"""The share of the seconds that goes into timing the original's modules one by one."""


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
        found.times(_in_turns(model, fast, found, deadline.before(_FOR_MODULES * seconds)))
        if found.gains() or (found.ratio is not None and found.ratio.pairs >= FEWEST):
            break
    step()
    with torch.inference_mode():
        taken = step_seconds(program, given, _STEP_PASSES if deadline.left > 0 else 1)
    own = _own_ms(model, asked, max(deadline.left, 0.1 * seconds), found.original_ms)
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
    model: nn.Module, asked: Asked, seconds: float, original_ms: float | None
) -> dict[str, float] | None:
    """Own time of each module inside of the original's passes, which add up to ``original_ms``."""
    if original_ms is None:
        return None
    try:
        found = time_in_context(model, asked.call, seconds=seconds, precision=0.05)
    except ArchcostError:
        return None
    scale = original_ms / (1e3 * found.total) if found.total else 1.0
    own: dict[str, float] = {}
    for one in found.calls:
        own[one.name] = own.get(one.name, 0.0) + 1e3 * one.median_s * scale
    return own
