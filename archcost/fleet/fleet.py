"""measure: many models on many devices, one store."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Literal

from archcost.errors import InputError
from archcost.fleet.child import MEASURE
from archcost.fleet.engines import Engine, OnDask, opened
from archcost.fleet.kept import FleetStore
from archcost.fleet.paper import expanded
from archcost.fleet.result import FleetRun
from archcost.fleet.running import Run
from archcost.fleet.tasks import Model, Paths, tasks_of
from archcost.fleet.worker import paper, perform
from archcost.progress import Progress

if TYPE_CHECKING:
    from distributed import Client, Security

__all__ = ["FleetInterrupted", "measure"]

# The share of a model's seconds for its whole run; the layers share the rest of all.
_WHOLE = 0.25
_LEAST_LAYER, _MOST_LAYER = 0.3, 10.0


class FleetInterrupted(KeyboardInterrupt):
    """Ctrl-C: ``found`` is the `FleetRun` so far, and the same call goes on from there."""

    def __init__(self, found: FleetRun) -> None:
        super().__init__("the fleet was interrupted")
        self.found = found


def measure(
    models: str | Iterable[str],
    *,
    client: Client | Executor | str | None = None,
    devices: Sequence[str] | None = None,
    seconds: float = 30.0,
    batch: int | Sequence[int] = (1, 8),
    threads: int | Sequence[int] = (1,),
    paths: Sequence[str] | Literal["all", "likely"] = "all",
    programs: bool = False,
    store: str | os.PathLike[str] | None = None,
    patience: float = 60.0,
    drift: float = 0.2,
    settle: float = 600.0,
    retry: bool = False,
    security: Security | None = None,
    progress: bool | None = None,
    run: str = MEASURE,
) -> FleetRun:
    """Measure models on devices: each whole, and every distinct layer of them all once for a device.

    Layers are convolutions and products of matrices. The same call goes on where an earlier one was
    interrupted; nothing is measured twice. Workers are started by ``archcost fleet worker``. What they are
    sent is executed there: see docs/fleet.md on TLS.

    Args:
        models: SPECs, or patterns of them such as ``"torchvision:resnet*"``, which take classifiers.
        client: the address of a dask scheduler, a `distributed.Client`, or an executor of
            `concurrent.futures`; by default a cluster of one exclusive worker here.
        devices: the names of devices; by default all that are there, and those that join.
        seconds: time for a model on a device: a quarter for its whole runs, the rest for the layers of all.
        batch: numbers of images.
        threads: numbers of PyTorch's threads.
        paths: names of paths, ``"all"``, or those that are ``"likely"`` to be fast.
        programs: time each model as a program of `archcost.accelerate` as well.
        store: the file; by default the user's own store.
        patience: seconds to wait for devices, and for a scheduler that was lost.
        drift: the relative change of a device's speed, that of a matrix product before and after each
            task, at which it is set aside until it settles, and what was measured then is measured again.
        settle: seconds after which a device whose speed has changed, and that ends nothing, is given up.
        retry: try again what failed in earlier calls.
        security: dask's TLS settings, with ``client="tls://..."``.
        progress: draw a progress bar on stderr; by default on a terminal.
        run: the function that measures, as ``MODULE:FUNCTION`` on the workers.

    Returns:
        A row for each model and device; ``print`` it for the table.

    Raises:
        FleetInterrupted: Ctrl-C; a KeyboardInterrupt with the result so far.
        FleetError: no scheduler or no device; a device did not settle; dask.distributed is missing.
        InputError: an argument makes no sense.
        SpecError: a pattern matches no model.
    """
    batches, counts = _numbers("batch", batch), _numbers("threads", threads)
    if not isinstance(seconds, (int, float)) or not seconds > 0:
        raise InputError(f"fleet: seconds must be a number above 0; got {seconds!r}")
    if not isinstance(drift, (int, float)) or not drift > 0:
        raise InputError(f"fleet: drift must be a number above 0, as 0.2 for 20 %; got {drift!r}")
    specs = expanded([models] if isinstance(models, str) else models)
    which: Paths = paths if paths in ("all", "likely") else tuple(paths)
    engine = opened(client, security)
    try:
        shown = sys.stderr.isatty() if progress is None else progress
        if isinstance(engine, OnDask) and engine.dashboard and shown:
            print(f"archcost: dask's dashboard is at {engine.dashboard}", file=sys.stderr)
        with FleetStore(store) as kept:
            failed = _on_paper(engine, kept, specs, batches, programs, progress)
            papers = [one for key, one in kept.papers().items() if key[0] in specs and key[1] in batches]
            tasks = tasks_of(papers, counts, which, ("eager", "program") if programs else ("eager",))
            layers = max(1, sum(not isinstance(task, Model) for task in tasks))
            each = (1 - _WHOLE) * seconds * len(specs) / layers
            shares = (min(max(each, _LEAST_LAYER), _MOST_LAYER), _WHOLE * seconds)
            work = Run(
                engine, kept, tasks, devices, shares, patience, retry, drift, settle, perform=perform, run=run
            )
            try:
                work.to_end(progress)
            except KeyboardInterrupt:
                raise FleetInterrupted(_found(work, kept, specs, failed)) from None
            return _found(work, kept, specs, failed)
    finally:
        engine.close()


def _found(run: Run, store: FleetStore, specs: Sequence[str], failed: dict[str, str]) -> FleetRun:
    notes = [f"{model} was not measured: {why}" for model, why in failed.items()]
    drifts = {one.name: one.drifts for one in run.states.values() if one.drifts}
    notes += [f"{name} was set aside {n} times, because its speed had changed" for name, n in drifts.items()]
    marks = [one.mark for one in run.states.values()]
    return FleetRun.of(store, marks, specs, (*notes, *run.notes), run.finished)


def _on_paper(
    engine: Engine,
    store: FleetStore,
    specs: Sequence[str],
    batches: Sequence[int],
    programs: bool,
    show: bool | None,
) -> dict[str, str]:
    """Put the models on paper that the store does not have, anywhere; why, for those that cannot be."""
    known = {key for key, paper in store.papers().items() if "program" in paper or not programs}
    wanted = [spec for spec in specs if any((spec, batch) not in known for batch in batches)]
    failed: dict[str, str] = {}
    with Progress(len(wanted), "counting", show) as bar:
        waiting = [(s, engine.submit(None, paper, s, list(batches), engine.local, programs)) for s in wanted]
        for spec, future in waiting:
            found: list[dict[str, Any]] = future.result()
            failed |= {one["model"]: one["failed"] for one in found if "failed" in one}
            store.keep_papers(one for one in found if "failed" not in one)
            bar.step(label=spec)
    return failed


def _numbers(name: str, given: int | Sequence[int]) -> tuple[int, ...]:
    found = (given,) if isinstance(given, int) else tuple(given)
    if not found or not all(type(one) is int and one > 0 for one in found):
        raise InputError(f"fleet: {name} must be whole numbers of at least 1; got {given!r}")
    return tuple(dict.fromkeys(found))
