"""A worker's part: one task at a time, its result kept where it ran before it is reported."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archcost.fleet.child import MEASURE, Child
from archcost.fleet.errors import FleetError
from archcost.fleet.kept import FleetStore, checked, mark_of
from archcost.fleet.tasks import Model, Probe, from_record

__all__ = ["ALLOW_CODE", "FOLDER", "Order", "facts", "paper", "perform", "versions"]

ALLOW_CODE, FOLDER = "ARCHCOST_FLEET_ALLOW_CODE", "ARCHCOST_FLEET_FOLDER"
"""Variables of a worker's environment: whether SPECs may be code, and where its own store is."""

_ALONE = threading.Lock()
_CHILDREN: dict[str, Child] = {}


@dataclass(frozen=True)
class Order:
    """A task as it travels to a worker: plain values, and the conditions of this attempt."""

    task: Mapping[str, Any]
    device: str
    limit: float
    """Seconds after which the measurement is stopped."""
    seconds: float
    """Seconds that measuring may take."""
    again: bool = False
    """Measure anew, whatever the worker's own store has."""
    run: str = MEASURE
    allow_code: bool = False
    """Whether it was ordered on the worker's own machine, by whoever started the worker."""


def versions() -> dict[str, str]:
    """What must be the same on all machines: versions of archcost, PyTorch and Python's first two numbers."""
    from importlib.metadata import version

    return {
        "archcost": version("archcost"),
        "torch": version("torch").partition("+")[0],
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def facts(device: str) -> dict[str, Any]:
    """Name, fingerprint and versions of this machine as the device ``device``."""
    from archcost.latency.store.fingerprint import fingerprint

    mark = fingerprint()
    return {
        "device": device,
        "mark": mark_of(mark.hash, device),
        "machine": str(mark),
        "versions": versions(),
    }


def perform(order: Order) -> dict[str, Any]:
    """Measure a task, unless this worker has measured it before; its result, or why it failed."""
    task = from_record(order.task)
    if isinstance(task, Model):
        from archcost.fleet.paper import refuse_code

        try:
            refuse_code(task.model, order.allow_code or bool(os.environ.get(ALLOW_CODE)))
        except FleetError as error:
            return {"failed": str(error), "log": "", "final": True}
    with _ALONE:
        mark = facts(order.device)["mark"]
        with FleetStore(_own_store(order.device)) as store:
            kept = None if order.again or isinstance(task, Probe) else store.result(task, mark)
            if kept is not None:
                return {"result": kept, "mark": mark, "kept": True}
            if order.run not in _CHILDREN:
                _CHILDREN[order.run] = Child(order.run)
            found = _CHILDREN[order.run].measure(dict(order.task), order.limit, order.seconds)
            if "result" in found:
                try:
                    result = checked(task, found["result"])
                    if not isinstance(task, Probe):
                        store.keep(task, mark, result)
                except FleetError as error:
                    return {"failed": str(error), "log": "", "mark": mark}
            return {**found, "mark": mark}


def paper(
    spec: str, batches: Sequence[int], allow_code: bool = False, programs: bool = False
) -> list[dict[str, Any]]:
    """A model on paper, see `archcost.fleet.paper.on_paper`; or ``[{"model", "failed"}]``."""
    from archcost.errors import ArchcostError
    from archcost.fleet.paper import on_paper

    try:
        return on_paper(spec, batches, allow_code or bool(os.environ.get(ALLOW_CODE)), programs)
    except ArchcostError as error:
        return [{"model": spec, "failed": str(error)}]


def _own_store(device: str) -> str:
    from platformdirs import user_cache_dir

    folder = os.environ.get(FOLDER) or user_cache_dir("archcost", appauthor=False)
    name = "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in device)
    return str(Path(folder) / f"fleet-{name}.sqlite")
