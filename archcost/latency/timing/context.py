"""In context: a model's own layers timed inside real forward passes, so that they add up to the whole.

A layer replayed alone finds a warm cache, and is 3 to 33 % too fast; behind a flushed one it is up to 150 %
too slow. So the clock is read at PyTorch's module hooks during whole passes. What a module does between its
children's calls is its own time: nothing of a pass belongs to nobody.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from archcost.errors import InputError, ModelError
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.timing import thresholds as limits
from archcost.latency.timing.deadline import Deadline, TooLittleTime, now
from archcost.latency.timing.engine import TimeStats, Turns, clock_for, time_stats
from archcost.latency.timing.hooks import Route, hook_seconds, hooked, route_of
from archcost.latency.timing.parts import CallTime, InContext
from archcost.latency.timing.passing import as_it_is, passed
from archcost.latency.timing.settings import settings
from archcost.latency.timing.stopwatch import CpuStopwatch, CudaStopwatch, Lap, Stopwatch, WallStopwatch
from archcost.trace.call import Call
from archcost.trace.inputs import dtype_of
from archcost.trace.modules import ModuleTree, check_initialised, check_model, is_training, walk
from archcost.trace.state import paused_gc

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["time_in_context"]


def time_in_context(
    model: nn.Module,
    inputs: Any,
    *,
    seconds: float = 10.0,
    deadline: Deadline | None = None,
    precision: float = limits.PRECISION,
    threads: int | None = None,
    cores: Collection[int] | None = None,
    keep_blocks: bool = False,
    clock: Literal["cpu", "wall"] | None = None,
    tolerance: float = limits.TOLERANCE,
    watch: Stopwatch | None = None,
) -> InContext:
    """Time every module call of the model's forward pass, and the pass end to end, in turns in one run.

    Gradients are off and denormals are flushed meanwhile. The model runs as it is, in training mode if it
    is in it, and is left as it was: its buffers, the random states, and the tensors given.

    Args:
        model: on the CPU, or on a CUDA device (where events are timed; not tried on one so far).
        inputs: a tuple is positional arguments, a dict is keyword arguments, anything else the one argument.
        seconds: begin no further pass after this much wall time, once five of each kind are done.
        deadline: begin no pass that is not likely to end by then, after a first one.
        precision: stop before, when the 95 % interval of the median is at most this far on either side, for
            the pass and for every call that takes a fiftieth of it.
        threads: of PyTorch; by default as many as it has now.
        cores: the cores to run on; by default any.
        keep_blocks: large blocks of memory stay with the process, for good; see `settings`.
        clock: by default CPU time for one thread, and wall time for more.
        tolerance: a lap is interrupted where wall time exceeds CPU time by more than this share.
        watch: another stopwatch altogether.

    Raises:
        InputError: an argument makes no sense.
        ModelError: the model's forward raised, takes another route through its modules every time, or is
            compiled.
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
        run = _Passes(partial(model, *call.args, **call.kwargs), tree, watch, tolerance, deadline)
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
    )


class _Pass(NamedTuple):
    """One forward pass: with hooks, the time of each call on its route; without, no route and one time."""

    route: Route | None
    own: list[Lap]

    @property
    def interrupted(self) -> bool:
        return any(one.interrupted for one in self.own)

    @property
    def whole(self) -> Lap:
        return Lap(sum(one.seconds for one in self.own), self.interrupted)


class _Passes:
    """The passes so far: those without hooks in turns with those with them."""

    def __init__(
        self,
        call: Callable[[], Any],
        tree: ModuleTree,
        watch: Stopwatch,
        tolerance: float,
        deadline: Deadline | None,
    ) -> None:
        self.call, self.tree, self.watch, self.tolerance = call, tree, watch, tolerance
        self.deadline = deadline
        self.cost = 0.0
        """Duration of the last pass, in seconds of the wall clock."""
        self.turns = Turns({"bare": self._bare, "hooked": self._hooked})

    def warm_up(self, until: Deadline) -> None:
        """Until two passes agree, ten at most; then one with hooks. At least two.

        Raises:
            TooLittleTime: they show that there is no time for as many as are needed.
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
        """Five rounds at least; more until the times are known so well, or the seconds are up.

        Raises:
            TooLittleTime: there is no time for five.
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
            # To look takes time as well: after a quarter more passes again.
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
        """Of the passes without hooks."""
        return time_stats([one.whole for _, one in self.turns.samples["bare"]])

    def usual(self) -> tuple[Route, dict[int, _Pass]]:
        """The most frequent route, and the passes that took it by their rounds."""
        routes: dict[Route, dict[int, _Pass]] = {}
        for number, one in self.turns.samples["hooked"]:
            assert one.route is not None
            routes.setdefault(one.route, {})[number] = one
        route, passes = max(routes.items(), key=lambda item: len(item[1]))
        if 2 * len(passes) <= self.turns.rounds:
            raise ModelError(
                f"the forward pass takes another route through its modules each time ({len(routes)} "
                f"in {self.turns.rounds} passes), so that no call can be timed twice. If that is dropped "
                f"layers, put the model in evaluation mode: model.eval()"
            )
        return route, passes

    def _worst_precision(self) -> float:
        """Of the pass, and of the calls on its most frequent route that take some part of it."""
        whole = self.bare()
        spans = [time_stats(laps) for laps in _by_call(self.usual()[1])]
        return max(one.precision for one in (whole, *spans) if one.median_s >= limits.LARGE * whole.median_s)

    def paired_difference(self, passes: Mapping[int, _Pass], cost: float) -> float:
        """Of the passes with hooks to those without, round by round."""
        bare = {number: one.whole.seconds for number, one in self.turns.samples["bare"]}
        pairs = [(one.whole.seconds - cost, bare[number]) for number, one in passes.items()]
        return median([with_hooks / without - 1 for with_hooks, without in pairs if without] or [math.nan])

    def _bare(self) -> _Pass:
        read = self.watch.read
        first = read()
        output = self._forward()
        lap = self.watch.laps([first, read()], self.tolerance)[0]
        del output  # what it takes to free the outputs is not the model's
        return _Pass(None, [lap])

    def _hooked(self) -> _Pass:
        with hooked(self.watch) as events:
            output = self._forward()
        del output
        route = route_of(events.marks, self.tree)
        if route is None:
            raise ModelError(
                "the model's hooks tell of no single forward pass: its __call__ is not PyTorch's"
            )
        return _Pass(route, route.own_times(self.watch.laps(events.readings, self.tolerance)))

    def _forward(self) -> Any:
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


def _stopwatch(device: torch.device, clock: str) -> Stopwatch:
    if device.type == "cuda":
        return CudaStopwatch(device)
    return CpuStopwatch() if clock == "cpu" else WallStopwatch()


def _tree_of(model: Any) -> ModuleTree:
    check_model(model)
    tree = walk(model)
    check_initialised(tree)
    for name, module in tree.modules.items():
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
            raise ModelError(
                f"{name or 'the model'} is compiled by torch.compile, and hooks would have it run another "
                f"way: give the model as it was before, or time it whole with archcost.latency.timing.clock"
            )
    return tree


def _device_of(tree: ModuleTree, call: Call) -> torch.device:
    """Where the pass runs; there must be one place."""
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


def _check(seconds: Any, precision: Any, tolerance: Any, clock: Any) -> None:
    for name, value in {"seconds": seconds, "precision": precision, "tolerance": tolerance}.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
            raise InputError(f"{name} must be a number, at least 0; got {value!r}")
    if clock not in (None, "cpu", "wall"):
        raise InputError(f"clock must be 'cpu' or 'wall'; got {clock!r}")
