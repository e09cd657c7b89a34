"""Where tasks run: a cluster of dask's, or an executor of `concurrent.futures`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from archcost.fleet.errors import FleetError
from archcost.fleet.worker import facts, versions

if TYPE_CHECKING:
    from distributed import Client, Security

__all__ = ["Engine", "Executing", "OnDask", "opened"]

LOCAL = "local"
"""The name of this machine as a device, where no worker gave one."""


class Engine(Protocol):
    """A place where tasks are performed, as a run needs it: dask, or an executor."""

    local: bool
    """Whether it runs on this machine, for whoever started it."""
    notes: list[str]

    def devices(self) -> dict[str, dict[str, Any]]:
        """The facts of each device that is there now, by name."""

    def submit(self, device: str | None, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Have a device call the function, alone; or anyone, where ``device`` is None."""

    def lost(self) -> bool:
        """Whether the scheduler cannot be reached; tries again to reach it."""

    def renew(self) -> None:
        """Connect anew, where nothing is heard though a connection is there."""

    def close(self) -> None:
        """End what this run began, and leave what it was given."""


class Executing:
    """An executor of `concurrent.futures`, which stands for this machine."""

    local = True

    def __init__(self, executor: Executor) -> None:
        self.executor, self.notes = executor, list[str]()
        self._facts: dict[str, Any] | None = None

    def devices(self) -> dict[str, dict[str, Any]]:
        if self._facts is None:
            self._facts = self.executor.submit(facts, LOCAL).result()
        return {LOCAL: self._facts}

    def submit(self, device: str | None, call: Callable[..., Any], *args: Any) -> Future[Any]:
        return self.executor.submit(call, *args)

    def lost(self) -> bool:
        return False

    def renew(self) -> None:
        pass

    def close(self) -> None:
        pass


class OnDask:
    """A dask cluster: of one exclusive worker here, by its scheduler's address, or a user's Client."""

    def __init__(self, client: Client | str | None, security: Security | None = None) -> None:
        from distributed import Client, LocalCluster

        self.address, self.security, self.notes = None, security, list[str]()
        self.local, self._cluster, self._mine = client is None, None, not isinstance(client, Client)
        if client is None:
            from archcost.fleet.gate import token

            self._cluster = LocalCluster(
                n_workers=1,
                threads_per_worker=2,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                resources={token(LOCAL): 1},
                startup_information={"archcost": startup(LOCAL)},
                silence_logs=50,
            )
            client = Client(self._cluster)
        elif isinstance(client, str):
            self.address = client
            client = self._connected()
        self.client: Client = client
        self._greet()

    def _connected(self) -> Client:
        from distributed import Client

        try:
            return Client(self.address, security=self.security, timeout=10, set_as_default=False)
        except (OSError, TimeoutError, ValueError, TypeError) as error:
            raise FleetError(
                f"fleet: no scheduler at {self.address}: {error}; `dask scheduler --host ADDRESS` starts one"
            ) from error

    def _greet(self) -> None:
        from archcost.fleet.gate import Gate

        self._executors: dict[str | None, Executor] = {}
        self._seen, self._scheduler, self._another = 0, None, False
        self.client.register_plugin(Gate(versions()))

    def devices(self) -> dict[str, dict[str, Any]]:
        info = self.client.scheduler_info(n_workers=-1)
        # A scheduler that was started again between two looks has forgotten all that was on the way.
        self._another |= self._scheduler not in (None, info["id"])
        self._scheduler = info["id"]
        found = [one["archcost"] for one in info["workers"].values() if one.get("archcost")]
        self._hear()
        return {one["device"]: one for one in reversed(found)}

    def _hear(self) -> None:
        """Note the refusals that are new."""
        from archcost.fleet.gate import TOPIC

        events = self.client.get_events(TOPIC)
        said = [event["refused"] for _, event in events[self._seen :] if "refused" in event]
        self._seen = len(events)
        self.notes += [one for one in said if one not in self.notes]

    def submit(self, device: str | None, call: Callable[..., Any], *args: Any) -> Future[Any]:
        from archcost.fleet.gate import token

        if device not in self._executors:
            # The resource goes with submit: an annotation would be lost on the way.
            resources = None if device is None else {token(device): 1}
            self._executors[device] = self.client.get_executor(pure=False, resources=resources)
        return self._executors[device].submit(call, *args)

    def lost(self) -> bool:
        if self.client.status == "running":
            another, self._another = self._another, False
            return another
        if self.client.status == "closed" and self.address is not None:
            with suppress(FleetError):
                self.client = self._connected()
                self._greet()
        else:
            time.sleep(0.2)
        return self.client.status != "running"

    def renew(self) -> None:
        if self.address is not None:
            with suppress(Exception):  # whatever state it is in
                self.client.close(timeout=2)
            with suppress(FleetError):
                self.client = self._connected()
                self._greet()

    @property
    def dashboard(self) -> str | None:
        """The link to dask's dashboard; None where it has none."""
        try:
            return self.client.dashboard_link if self.client.status == "running" else None
        except KeyError:  # the scheduler was started without
            return None

    def close(self) -> None:
        if self._mine:
            with suppress(Exception):  # a scheduler that is gone must not keep the results from being shown
                self.client.close(timeout=5)
        if self._cluster is not None:
            self._cluster.close(timeout=10)


def startup(device: str) -> Callable[..., dict[str, Any]]:
    """The function by which a dask worker tells the scheduler its facts."""
    return partial(_facts, device)


def _facts(device: str, worker: object) -> dict[str, Any]:
    return {**facts(device), "pid": os.getpid()}


def opened(client: Client | Executor | str | None, security: Security | None = None) -> Engine:
    """The engine that ``client=`` means.

    Raises:
        FleetError: dask.distributed is missing, or there is no scheduler.
    """
    if isinstance(client, Executor):
        return Executing(client)
    try:
        return OnDask(client, security)
    except ImportError as error:
        raise FleetError("fleet: dask.distributed is missing: pip install 'archcost[fleet]'") from error
