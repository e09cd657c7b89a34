"""The run: tasks to devices until each is done or failed, whatever workers and links do meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any

from archcost.fleet.engines import Engine
from archcost.fleet.errors import FleetError
from archcost.fleet.kept import FleetStore, checked
from archcost.fleet.limits import Limits
from archcost.fleet.states import STRIKES, State
from archcost.fleet.tasks import Model, Probe, Task
from archcost.fleet.worker import Order, perform
from archcost.progress import Progress

__all__ = ["Perform", "Run"]

Perform = Callable[[Order], dict[str, Any]]
_LOOK, _RENEW = 2.0, 20.0
"""Seconds between two looks at which devices are there, and until a connection without any is made anew."""


@dataclass
class Run:
    """A list of tasks for every device of an engine.

    Args:
        engine: where they are performed.
        store: takes the results, and says what is done already.
        tasks: each is performed once on each device.
        devices: names of devices; None takes all that are there, and those that come.
        seconds: for measuring a layer, and a whole model.
        patience: seconds to wait for a device, and for the scheduler.
        retry: try again what failed in earlier runs.
        drift: relative change of a device's speed at which it is set aside.
        settle: seconds after which a device that is set aside, and ends nothing, is given up.
        perform: what a worker calls with an `Order`.
        run: see `archcost.fleet.child`.
    """

    engine: Engine
    store: FleetStore
    tasks: Sequence[Task]
    devices: Sequence[str] | None = None
    seconds: tuple[float, float] = (1.0, 5.0)
    patience: float = 60.0
    retry: bool = False
    drift: float = 0.2
    settle: float = 600.0
    perform: Perform = perform
    run: str | None = None
    states: dict[str, State] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    started: int = 0
    finished: int = 0

    def to_end(self, show: bool | None = None) -> None:
        """Perform all tasks; Ctrl-C ends it, with all that is done in the store.

        Raises:
            FleetError: no device came in time, the scheduler stayed away, or a device did not settle.
        """
        self._look(first=True)
        with Progress(sum(one.left for one in self.states.values()), "measuring", show) as bar:
            begun = looked = heard = renewed = time.monotonic()
            try:
                while any(one.left and not one.given_up(self.settle) for one in self.states.values()):
                    now = time.monotonic()
                    if self.engine.lost():
                        self._all_again()
                        if now - heard > self.patience:
                            raise FleetError(
                                "fleet: the scheduler was lost; start it again, and the same command goes on"
                            )
                        continue
                    if now - looked > _LOOK:
                        looked = now
                        there = self._look()
                        if not there and now - max(heard, renewed) > _RENEW:
                            renewed = now
                            self.engine.renew()
                            self._all_again()
                        bar.total = self.finished + sum(one.left for one in self.states.values())
                        if not there and now - heard > self.patience:
                            raise FleetError(
                                "fleet: no device is left; start workers, and the same command goes on"
                            )
                    self._submit()
                    ended = self._ended()
                    if ended:
                        heard = now
                    self._say(bar, ended, time.monotonic() - begun)
            finally:
                for one in self.states.values():
                    for future in one.running:
                        future.cancel()
        restless = [one.name for one in self.states.values() if one.left]
        if restless:
            raise FleetError(
                f"fleet: the speed of {', '.join(restless)} did not settle in {self.settle:.0f} s; what is "
                "done is kept. Stop what else runs there, or allow more drift; the same command goes on "
                "from its speed then"
            )

    def _look(self, first: bool = False) -> bool:
        """Take in the devices that have come; whether one is there that has something to do."""
        until = time.monotonic() + self.patience
        while True:
            try:
                there = self.engine.devices()
            except (OSError, RuntimeError, ValueError):
                return True  # the scheduler is being lost, which the loop looks at
            wanted = there if self.devices is None else {n: there[n] for n in self.devices if n in there}
            for name, found in wanted.items():
                if name not in self.states:
                    self._take(name, found)
            missing = [] if self.devices is None else [n for n in self.devices if n not in there]
            self.notes += [one for one in self.engine.notes if one not in self.notes]
            if not first or (wanted and not missing):
                return any(self.states[name].left for name in wanted)
            if time.monotonic() > until:
                said = "; ".join([f"no device {', '.join(missing)}"] * bool(missing) + self.notes)
                offered = ", ".join(there) or "none"
                raise FleetError(f"fleet: {said or 'there is no device'}; devices there: {offered}")
            time.sleep(0.2)

    def _take(self, name: str, found: Mapping[str, Any]) -> None:
        known = self.store.states(found["mark"])
        skip = {key for key, state in known.items() if state == "done" or not self.retry}
        queue = deque(task for task in self.tasks if task.key not in skip)
        self.states[name] = State(name, found["mark"], found["machine"], queue, self.drift)
        self.limits = Limits(self.store, self.seconds)

    def _submit(self) -> None:
        for state in self.states.values():
            for task in state.next():
                probe = isinstance(task, Probe)
                if probe:
                    time.sleep(0.05)
                order = Order(
                    task.record(),
                    state.name,
                    self.limits.of(task, state.mark),
                    self.seconds[isinstance(task, Model)],
                    again=probe or task.key in state.again,
                    allow_code=self.engine.local,
                    **({} if self.run is None else {"run": self.run}),
                )
                state.running[self.engine.submit(state.name, self.perform, order)] = task
                self.started += 1

    def _ended(self) -> int:
        """Wait for results for a moment, and take them in: how many tasks came to their end."""
        every = [future for state in self.states.values() for future in state.running]
        if not every:
            time.sleep(0.05)
            return 0
        wait(every, timeout=0.5, return_when=FIRST_COMPLETED)
        ended: list[tuple[Task, str, dict[str, Any]]] = []
        try:
            for state in self.states.values():
                for future in [one for one in state.running if one.done()]:
                    result = self._took(state, task := state.running.pop(future), future)
                    if result is not None:
                        ended.append((task, state.mark, result))
        finally:
            self.store.keep_many(ended)
        self.finished += len(ended)
        for state in self.states.values():
            if state.faster:
                self._measure_again(state)
        return len(ended)

    def _measure_again(self, state: State) -> None:
        """Queue what was measured while the device was slower than it turned out to be."""
        slow = {
            task.key
            for task, _, came_to, result, _ in self.store.results(state.mark)
            if came_to == "done" and state.slowed(result["reference_s"])
        }
        waiting = {task.key for task in (*state.queue, *state.running.values())}
        again = [task for task in self.tasks if task.key in slow - waiting]
        state.again |= slow
        state.queue.extend(again)
        state.faster = False

    def _took(self, state: State, task: Task, future: Future[Any]) -> dict[str, Any] | None:
        """Take in what a task gave: what is to be kept of it, or None where that was not its end."""
        try:
            found = future.result()
        except CancelledError:  # the link was lost, not the task's fault
            state.queue.appendleft(task)
            return None
        except Exception as error:  # whatever a worker, or dask about it, raised
            found = {"failed": f"{type(error).__name__}: {error}", "log": ""}
        if isinstance(task, Probe):
            if "result" in found:
                state.settled(checked(task, found["result"])["reference_s"])
            return None
        if "result" in found:
            try:
                result = checked(task, found["result"])
            except FleetError as error:
                found = {"failed": str(error), "log": ""}
        if "failed" in found:
            if found.get("final"):
                state.strikes[task.key] = STRIKES - 1
            if not state.strike(task, f"{found['failed']}\n{found.get('log', '')}".strip()):
                return None
            return {"failed": found["failed"], "log": found.get("log", "")}
        if found.get("mark", state.mark) != state.mark:
            state.queue.append(task)
            raise FleetError(
                f"fleet: device {state.name!r} has become another machine ({state.mark}, {found['mark']}): "
                "give each machine a name of its own"
            )
        # What was kept is of another time, and says nothing of the device's speed now.
        if not found.get("kept") and not state.settled(result["reference_s"]):
            state.again.add(task.key)
            state.queue.append(task)
            return None
        state.restless = None
        return result

    def _all_again(self) -> None:
        """Put what was on the way into the queues: the scheduler that had it is gone."""
        for state in self.states.values():
            state.queue.extendleft(one for one in state.running.values() if not isinstance(one, Probe))
            state.running.clear()

    def _say(self, bar: Progress, ended: int, took: float) -> None:
        left, rate = sum(one.left for one in self.states.values()), self.finished / max(took, 1e-9)
        aside = [one.name for one in self.states.values() if one.aside]
        text = f"{len(self.states)} device{'s' * (len(self.states) != 1)}, {rate:.1f} tasks/s"
        if rate and left:
            text += f", {left / rate / 60:.0f} min left"
        if aside:
            text += f", {', '.join(aside)} set aside until settled"
        if ended:
            bar.step(ended, label=text)
