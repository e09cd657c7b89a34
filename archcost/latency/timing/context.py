"""In context: a model's own layers timed inside real forward passes, so that they add up to the whole.

A layer replayed alone finds a warm cache, and is 3 to 33 % too fast; behind a flushed one it is up to 150 %
too slow. So the clock is read at PyTorch's module hooks during whole passes. What a module does between its
children's calls is its own time: nothing of a pass belongs to nobody.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from archcost.errors import ArchcostError, InputError, ModelError
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.timing.deadline import FEWEST, Deadline, TooLittleTime, now
from archcost.latency.timing.hooks import Route, hook_seconds, hooked, route_of
from archcost.latency.timing.parts import CallTime, InContext, Span, span
from archcost.latency.timing.settings import settings
from archcost.latency.timing.stopwatch import CpuStopwatch, CudaStopwatch, Stopwatch, WallStopwatch
from archcost.trace.call import Call
from archcost.trace.inputs import dtype_of
from archcost.trace.modules import ModuleTree, check_initialised, check_model, is_training, walk
from archcost.trace.state import Untouched, deeper_recursion, paused_gc

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["time_in_context"]

_MOST_ROUNDS = 10_000
# Calls of a smaller share are not waited for.
_SHARE = 0.02


def time_in_context(
    model: nn.Module,
    inputs: Any,
    *,
    seconds: float = 10.0,
    deadline: Deadline | None = None,
    precision: float = 0.02,
    threads: int | None = None,
    cores: Collection[int] | None = None,
    keep_blocks: bool = False,
    clock: Literal["cpu", "wall"] | None = None,
    tolerance: float = 0.1,
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
        untouched = stack.enter_context(Untouched(tree))
        for module in tree.modules.values():
            for buffer in module._buffers.values():
                if buffer is not None and buffer.layout is torch.strided:
                    untouched.keep(buffer.untyped_storage())
        stack.enter_context(settings(threads=threads, cores=cores, keep_blocks=keep_blocks))
        stack.enter_context(torch.no_grad())
        stack.enter_context(deeper_recursion())
        used = torch.get_num_threads()
        watch = watch or _stopwatch(device, clock or ("cpu" if used == 1 else "wall"))
        run = _Passes(partial(model, *call.args, **call.kwargs), tree, watch, tolerance, deadline)
        run.warm_up(enough.within(seconds / 5))
        lap = 0.0 if watch.clock == "cuda" else hook_seconds(watch, deadline=deadline)
        stack.enter_context(paused_gc())
        shuffle = random.Random(0).shuffle
        look = FEWEST
        while run.rounds < _MOST_ROUNDS and run.has_room():
            if run.rounds >= FEWEST and enough.passed:
                break
            if run.rounds >= look:
                if run.worst_precision() <= precision:
                    break
                # To look takes time as well: after a quarter more passes again.
                look += max(1, look // 4)
            run.one_round(shuffle)
    times, route = run.call_times(lap)
    return InContext(
        calls=times,
        end_to_end=span(run.bare),
        with_hooks=span([_whole(own) for own in run.routes[route].values()]),
        hooks_cost=lap * len(route.laps),
        paired_difference=run.paired_difference(route, lap * len(route.laps)),
        passes=run.rounds,
        other_routes=run.rounds - len(run.routes[route]),
        clock=watch.clock,
        device=str(fingerprint(str(device) if device.type == "cuda" else "cpu")),
        threads=used,
        dtype=str(dtype_of(tree)).removeprefix("torch."),
        inputs=_text(call),
        training=is_training(model),
        torch=str(torch.__version__),
    )


_Own = list[tuple[float, bool]]


@dataclass
class _Passes:
    """The passes so far: those without hooks, and those with them, by the route they took."""

    call: Callable[[], Any]
    tree: ModuleTree
    watch: Stopwatch
    tolerance: float
    deadline: Deadline | None = None
    rounds: int = 0
    cost: float = 0.0
    """Duration of the last pass, in seconds of the wall clock."""
    bare: _Own = field(default_factory=list)
    routes: dict[Route, dict[int, _Own]] = field(default_factory=dict)
    """By route, then by round."""

    def warm_up(self, until: Deadline) -> None:
        """Until two passes agree within 5 %, ten at most; then one with hooks. At least two.

        Raises:
            TooLittleTime: they show that there is no time for as many as are needed.
        """
        last = self._bare()[0]
        for _ in range(9):
            self._needs_time(1)
            last, before = self._bare()[0], last
            if abs(last - before) <= 0.05 * before or until.passed:
                break
        self._needs_time(1 + 2 * FEWEST)
        self._hooked()

    def has_room(self) -> bool:
        """Whether another round is likely to end in time; if there must be one, and is not, it raises."""
        if self.rounds >= FEWEST:
            return self.deadline is None or self.deadline.allows(2 * self.cost)
        self._needs_time(2)
        return True

    def _needs_time(self, passes: int) -> None:
        if self.deadline is not None and not self.deadline.allows(passes * self.cost):
            raise TooLittleTime(
                f"no time for {FEWEST} passes with hooks and {FEWEST} without, of {self.cost:.2g} s each"
            )

    def one_round(self, shuffle: Callable[[list[Any]], Any]) -> None:
        turns: list[Callable[[], None]] = [self._keep_bare, self._keep_hooked]
        shuffle(turns)
        for turn in turns:
            turn()
        self.rounds += 1

    def worst_precision(self) -> float:
        """Of the pass, and of the calls on its most frequent route that take some part of it."""
        whole = span(self.bare)
        most = max(self.routes.values(), key=len)
        spans = [span(samples) for samples in zip(*most.values(), strict=True)]
        large = [one for one in spans if one.median_s >= _SHARE * whole.median_s]
        return max(one.precision for one in (whole, *large))

    def call_times(self, lap: float) -> tuple[tuple[CallTime, ...], Route]:
        """Each call of the most frequent route, with ``lap`` taken off each of its laps."""
        route, passes = max(self.routes.items(), key=lambda item: len(item[1]))
        if 2 * len(passes) <= self.rounds:
            raise ModelError(
                f"the forward pass takes another route through its modules each time ({len(self.routes)} "
                f"in {self.rounds} passes), so that no call can be timed twice. If that is dropped layers, "
                f"put the model in evaluation mode: model.eval()"
            )
        laps = [0] * len(route.calls)
        for owner in route.laps:
            laps[owner] += 1
        seen: dict[str, int] = {}
        times = []
        for call, number, samples in zip(route.calls, laps, zip(*passes.values(), strict=True), strict=True):
            found: Span = span([(max(0.0, took - number * lap), cut) for took, cut in samples])
            nth = seen[call.name] = seen.get(call.name, -1) + 1
            times.append(CallTime(**vars(found), name=call.name, type=call.type, call=nth, leaf=call.leaf))
        return tuple(times), route

    def paired_difference(self, route: Route, cost: float) -> float:
        """Of the passes with hooks to those without, round by round."""
        pairs = [(_whole(own)[0] - cost, self.bare[number][0]) for number, own in self.routes[route].items()]
        return median([with_hooks / bare - 1 for with_hooks, bare in pairs if bare] or [math.nan])

    def _keep_bare(self) -> None:
        self.bare.append(self._bare())

    def _keep_hooked(self) -> None:
        route, own = self._hooked()
        self.routes.setdefault(route, {})[self.rounds] = own

    def _bare(self) -> tuple[float, bool]:
        read = self.watch.read
        first = read()
        output = self._forward()
        lap = self.watch.laps([first, read()], self.tolerance)[0]
        del output  # what it takes to free the outputs is not the model's
        return lap

    def _hooked(self) -> tuple[Route, _Own]:
        with hooked(self.watch) as events:
            output = self._forward()
        del output
        route = route_of(events.marks, self.tree)
        if route is None:
            raise ModelError(
                "the model's hooks tell of no single forward pass: its __call__ is not PyTorch's"
            )
        return route, route.own_times(self.watch.laps(events.readings, self.tolerance))

    def _forward(self) -> Any:
        start = now()
        try:
            output = self.call()
            self.cost = now() - start
            return output
        except ArchcostError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise ModelError(f"the model cannot be timed, its forward pass raised {said}") from error


def _whole(own: _Own) -> tuple[float, bool]:
    return sum(took for took, _ in own), any(cut for _, cut in own)


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
