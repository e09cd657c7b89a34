"""The gate: refuses workers whose versions are not the run's, or whose device another worker has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

__all__ = ["TOPIC", "Gate", "token", "why_not"]

TOPIC = "archcost-fleet"
"""The topic of the scheduler's events under which refusals stand."""
_REGISTERED = 0.1  # seconds until dask has registered a worker


def token(device: str) -> str:
    """The resource of which a device has one."""
    return f"bench:{device}"


def why_not(
    found: Mapping[str, Any], wanted: Mapping[str, str], others: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """The reason why a worker cannot join, or None.

    Args:
        found: its facts, see `archcost.fleet.worker.facts`.
        wanted: the versions of the run.
        others: the facts of the other workers by address.
    """
    for name, version in wanted.items():
        if found["versions"].get(name) != version:
            own = found["versions"].get(name)
            return f"device {found['device']!r} has {name} {own}, this run {version}: install the same"
    for address, other in others.items():
        if other["device"] == found["device"]:
            return (
                f"device {found['device']!r} is measured by the worker at {address} already: give each "
                "machine a name of its own"
            )
    return None


class Gate(SchedulerPlugin):
    """Refuses workers as they join, on the scheduler."""

    name = TOPIC
    idempotent = True

    def __init__(self, versions: Mapping[str, str]) -> None:
        self.versions = dict(versions)

    async def start(self, scheduler: Scheduler) -> None:
        """Look at the workers that are there, the first to join first."""
        for address in list(scheduler.workers):
            await self.add_worker(scheduler, address)

    async def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Refuse a worker that may not join, with an event that says why."""
        every = {address: state.extra.get("archcost") for address, state in scheduler.workers.items()}
        joined = every.pop(worker, None)
        if joined is None:
            return  # a worker for paper alone, or of another program
        before = list(scheduler.workers)[: list(scheduler.workers).index(worker)]
        others = {address: own for address in before if (own := every.get(address))}
        reason = why_not(joined, self.versions, others)
        if reason is not None:
            scheduler.log_event(TOPIC, {"refused": reason, "worker": worker})
            # Not at once: dask goes on to register the worker after this, and fails where it is gone.
            scheduler.loop.call_later(
                _REGISTERED, scheduler.remove_worker, worker, stimulus_id=TOPIC, close=True
            )
