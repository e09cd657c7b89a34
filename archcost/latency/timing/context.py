"""In context: a model's layers timed inside real forward passes, so that they add up to the whole.

A layer run alone finds a warm cache, and is 3 to 33 % too fast; with a flushed cache it is up to 150 % too
slow. So the clock is read at PyTorch's module hooks during whole passes. The time between the calls of a
module's children is the module's own: all of a pass belongs to some module.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Literal, NamedTuple

from archcost.errors import InputError, ModelError
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.timing import thresholds as limits
from archcost.latency.timing.deadline import Deadline, TooLittleTime, now
from archcost.latency.timing.engine import TimeStats, Turns, Work, clock_for, time_stats
from archcost.latency.timing.hooks import Route, hook_seconds, hooked, route_of
from archcost.latency.timing.parts import CallTime, InContext
from archcost.latency.timing.passing import as_it_is, passed
from archcost.latency.timing.settings import settings
from archcost.latency.timing.stopwatch import (
    AnyStopwatch,
    CpuStopwatch,
    CudaStopwatch,
    Lap,
    System,
    WallStopwatch,
    system_now,
)
from archcost.trace.call import Call, Inputs
from archcost.trace.inputs import dtype_of
from archcost.trace.modules import ModuleTree, check_initialised, check_model, is_training, walk
from archcost.trace.state import paused_gc

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["time_in_context"]


def time_in_context(
    model: nn.Module,
    inputs: Inputs,
    *,
    seconds: float = 10.0,
    deadline: Deadline | None = None,
    precision: float = limits.PRECISION,
    threads: int | None = None,
    cores: Collection[int] | None = None,
    keep_blocks: bool = False,
    clock: Literal["cpu", "wall"] | None = None,
    tolerance: float = limits.TOLERANCE,
    watch: AnyStopwatch | None = None,
) -> InContext:
    """Time every module call of a model's forward pass and, in turns with that, the pass end to end.

    Gradients are off and denormal numbers are flushed meanwhile. The model runs in the mode in which it is,
    training or eval; its buffers, the random states and the inputs are left as they were.

    Args:
        model: on the CPU, or on a CUDA device (timed by events; not tried on a device so far).
        inputs: a tuple of positional arguments, a dict of keyword arguments, or the only argument.
        seconds: begin no further pass after this much wall time, once five of each kind are done.
        deadline: begin no pass that is not likely to end by then, after the first.
        precision: stop earlier, when half the 95 % interval of the median is at most this share of it, for
            the pass and for every call that takes a fiftieth of it or more.
        threads: threads of PyTorch; by default as many as it has now.
        cores: the processor cores to run on; by default any.
        keep_blocks: large blocks of memory stay with the process, for good; see `settings`.
        clock: by default CPU time for one thread, and wall time for more.
        tolerance: a time is interrupted where wall time exceeds CPU time by more than this share.
        watch: a stopwatch to use in place of that of ``clock``.

    Returns:
        The time of each call and of the whole pass, with the conditions of timing.

    Raises:
        InputError: an argument makes no sense.
        ModelError: the model's forward raises, calls other modules every time, or is compiled.
        TooLittleTime: the deadline does not leave time for five passes of each kind.
    """
    import torch

    _check(seconds, precision, tolerance, clock)
    tree = _tree_of(model)
    call = Call.of(inputs).cloned()  # a model may write into its own
    device, enough = _device_of(tree, call), Deadline(seconds)
    with ExitStack() as stack:
        stack.enter_context(as_it_is(tree))
        stack.enter_context(settings(threads=threads, cores=cores, keep_blocks=keep_blocks))
        used = torch.get_num_threads()
        watch = watch or _stopwatch(device, clock or clock_for(used))
        run = _TimedPasses(partial(model, *call.args, **call.kwargs), tree, watch, tolerance, deadline)
        run.warm_up(enough.within(seconds / 5))
        lap = 0.0 if watch.clock == "cuda" else hook_seconds(watch, deadline=deadline)
        stack.enter_context(paused_gc())
        run.run(enough, precision)
    route, passes = run.usual()
    cost = lap * len(route.laps)
    return InContext(
        calls=_call_times(route, passes, lap),
        end_to_end=run.bare(),
        with_hooks=time_stats([one.whole for one in passes.values()]),
        hooks_cost=cost,
        paired_difference=run.paired_difference(passes, cost),
        passes=run.turns.rounds,
        other_routes=run.turns.rounds - len(passes),
        clock=watch.clock,
        device=str(fingerprint(str(device) if device.type == "cuda" else "cpu")),
        threads=used,
        dtype=str(dtype_of(tree)).removeprefix("torch."),
        inputs=_text(call),
        training=is_training(model),
        torch=str(torch.__version__),
        system=run.system(),
    )


class _Pass(NamedTuple):
    """A forward pass: with hooks, its route and the time of each call; without, a single time."""

    route: Route | None
    own: list[Lap]
    system: System | None = None

    @property
    def interrupted(self) -> bool:
        return any(one.interrupted for one in self.own)

    @property
    def whole(self) -> Lap:
        return Lap(sum(one.seconds for one in self.own), self.interrupted)


class _TimedPasses:
    """The passes so far, without hooks and with hooks in turns."""

    def __init__(
        self,
        call: Work,
        tree: ModuleTree,
        watch: AnyStopwatch,
        tolerance: float,
        deadline: Deadline | None,
    ) -> None:
        self.call, self.tree, self.watch, self.tolerance = call, tree, watch, tolerance
        self.deadline = deadline
        self.cost = 0.0
        """Wall time of the last pass, in seconds."""
        self.turns = Turns({"bare": self._bare, "hooked": self._hooked})

    def warm_up(self, until: Deadline) -> None:
        """Run two to ten passes, until two agree, and then a pass with hooks.

        Raises:
            TooLittleTime: there is no time for as many passes as are needed.
        """
        last = self._bare().whole.seconds
        for _ in range(limits.MOST_WARMING - 1):
            self._needs_time(1)
            last, before = self._bare().whole.seconds, last
            if abs(last - before) <= limits.STEADY * before or until.passed:
                break
        self._needs_time(1 + 2 * limits.FEWEST)
        self._hooked()

    def run(self, seconds: Deadline, precision: float) -> None:
        """Run five rounds at least; more until the medians reach the precision, or the seconds are up.

        Raises:
            TooLittleTime: there is no time for five rounds.
        """
        look = limits.FEWEST

        def enough() -> bool:
            nonlocal look
            rounds = self.turns.rounds
            if rounds < limits.FEWEST:
                self._needs_time(2)
                return False
            late = self.deadline is not None and not self.deadline.allows(2 * self.cost)
            if rounds >= limits.MOST_PASSES or seconds.passed or late:
                return True
            if rounds < look:
                return False
            # Computing the precision takes time as well: the next time after a quarter more passes.
            look += max(1, look // 4)
            return self._worst_precision() <= precision

        self.turns.run(enough)

    def _needs_time(self, passes: int) -> None:
        if self.deadline is not None and not self.deadline.allows(passes * self.cost):
            few = limits.FEWEST
            raise TooLittleTime(
                f"no time for {few} passes with hooks and {few} without, of {self.cost:.2g} s each"
            )

    def bare(self) -> TimeStats:
        """The time of the passes without hooks."""
        return time_stats([one.whole for _, one in self.turns.samples["bare"]])

    def system(self) -> System | None:
        """System time and page faults of a pass without hooks, the medians."""
        known = [one.system for _, one in self.turns.samples["bare"] if one.system is not None]
        if not known:
            return None
        return System(median(one.seconds for one in known), int(median(one.page_faults for one in known)))

    def usual(self) -> tuple[Route, dict[int, _Pass]]:
        """The most frequent route, and the passes that took it by their rounds."""
        routes: dict[Route, dict[int, _Pass]] = {}
        for number, one in self.turns.samples["hooked"]:
            assert one.route is not None
            routes.setdefault(one.route, {})[number] = one
        route, passes = max(routes.items(), key=lambda item: len(item[1]))
        if 2 * len(passes) <= self.turns.rounds:
            raise ModelError(
                f"the forward pass calls its modules in another order each time ({len(routes)} orders in "
                f"{self.turns.rounds} passes), so that no call can be timed twice. Where layers are "
                f"dropped at random, put the model in evaluation mode: model.eval()"
            )
        return route, passes

    def _worst_precision(self) -> float:
        """The worst precision among the pass and its larger calls on the most frequent route."""
        whole = self.bare()
        spans = [time_stats(laps) for laps in _by_call(self.usual()[1])]
        return max(one.precision for one in (whole, *spans) if one.median_s >= limits.LARGE * whole.median_s)

    def paired_difference(self, passes: Mapping[int, _Pass], cost: float) -> float:
        """The median over the rounds of how much longer the pass with hooks took, its cost subtracted."""
        bare = {number: one.whole.seconds for number, one in self.turns.samples["bare"]}
        pairs = [(one.whole.seconds - cost, bare[number]) for number, one in passes.items()]
        return median([with_hooks / without - 1 for with_hooks, without in pairs if without] or [math.nan])

    def _bare(self) -> _Pass:
        read, before = self.watch.read, system_now()
        first = read()
        output = self._forward()
        lap = self.watch.laps([first, read()], self.tolerance)[0]
        after = system_now()
        del output  # freeing the outputs is not part of the model's time
        return _Pass(None, [lap], after and before and after.since(before))

    def _hooked(self) -> _Pass:
        with hooked(self.watch) as events:
            output = self._forward()
        del output
        route = route_of(events.marks, self.tree)
        if route is None:
            raise ModelError(
                "the hooks saw no single forward pass of the model: its __call__ is not PyTorch's"
            )
        return _Pass(route, route.own_times(self.watch.laps(events.readings, self.tolerance)))

    def _forward(self) -> object:
        start = now()
        output = passed(self.call, "timed")
        self.cost = now() - start
        return output


def _by_call(passes: Mapping[int, _Pass]) -> Iterator[tuple[Lap, ...]]:
    return zip(*(one.own for one in passes.values()), strict=True)


def _call_times(route: Route, passes: Mapping[int, _Pass], lap: float) -> tuple[CallTime, ...]:
    """Each call of the route, with ``lap`` taken off each of its laps."""
    laps, seen = Counter(route.laps), Counter[str]()
    times = []
    for number, (call, samples) in enumerate(zip(route.calls, _by_call(passes), strict=True)):
        off = laps[number] * lap
        found = time_stats([Lap(max(0.0, one.seconds - off), one.interrupted) for one in samples])
        times.append(
            CallTime(**vars(found), name=call.name, type=call.type, call=seen[call.name], leaf=call.leaf)
        )
        seen[call.name] += 1
    return tuple(times)


def _stopwatch(device: torch.device, clock: str) -> AnyStopwatch:
    if device.type == "cuda":
        return CudaStopwatch(device)
    return CpuStopwatch() if clock == "cpu" else WallStopwatch()


def _tree_of(model: nn.Module) -> ModuleTree:
    check_model(model)
    tree = walk(model)
    check_initialised(tree)
    for name, module in tree.modules.items():
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
            raise ModelError(
                f"{name or 'the model'} is compiled by torch.compile, and hooks change that: give the model "
                f"as it was before, or time it whole with archcost.latency.timing.clock.compare_calls"
            )
    return tree


def _device_of(tree: ModuleTree, call: Call) -> torch.device:
    """The device of the model and of its inputs; there must be one."""
    import torch

    tensors = call.tensors
    for module in tree.modules.values():
        tensors += [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
    devices = {tensor.device for tensor in tensors if tensor.dim()} or {torch.device("cpu")}
    kinds = {device.type for device in devices}
    if len(kinds) != 1 or not kinds <= {"cpu", "cuda"}:
        named = " and ".join(sorted(map(str, devices)))
        raise InputError(f"model and inputs are on {named}; to be timed, all must be on the CPU or on CUDA")
    return min(devices, key=str)


def _text(call: Call) -> str:
    said = ["x".join(map(str, t.shape)) + f" {str(t.dtype).removeprefix('torch.')}" for t in call.tensors]
    return ", ".join(said) or "none"


def _check(seconds: float, precision: float, tolerance: float, clock: str | None) -> None:
    for name, value in {"seconds": seconds, "precision": precision, "tolerance": tolerance}.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
            raise InputError(f"{name} must be a number, at least 0; got {value!r}")
    if clock not in (None, "cpu", "wall"):
        raise InputError(f"clock must be 'cpu' or 'wall'; got {clock!r}")
