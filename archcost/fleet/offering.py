"""A worker: this machine offered to a scheduler as a device, until it is stopped."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from archcost.errors import InputError
from archcost.fleet.errors import FleetError
from archcost.fleet.worker import ALLOW_CODE, FOLDER, facts, versions

if TYPE_CHECKING:
    from distributed import Scheduler, Security

__all__ = ["offer", "security", "status"]

_AGAIN = 1.0  # seconds until a scheduler that was lost is looked for again
_EVERYWHERE = ("0.0.0.0", "::", "")


def security(ca_file: str, cert: str, key: str) -> Security:
    """dask's TLS settings for clients and workers; nothing goes unencrypted then."""
    _dask()
    from distributed import Security

    own = {f"tls_{side}_{name}": file for side in ("client", "worker") for name, file in
           {"cert": cert, "key": key}.items()}  # fmt: skip
    return Security(tls_ca_file=ca_file, require_encryption=True, **own)


def offer(
    scheduler: str,
    device: str,
    *,
    host: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    allow_code: bool = False,
    security: Security | None = None,
) -> None:
    """Measure what the scheduler sends, until Ctrl-C; where it goes away, wait for it to come back.

    Args:
        scheduler: its address.
        device: the name of this machine as a device.
        host: the address to listen at; by default loopback, also where the scheduler is elsewhere.
        folder: the folder of this worker's own store.
        allow_code: take SPECs that are files or modules.
        security: TLS.

    Raises:
        FleetError: the scheduler refuses this machine, and says why; dask.distributed is missing.
        InputError: the host is every interface.
    """
    _dask()
    if host in _EVERYWHERE:
        raise InputError(f"fleet: host is {host!r}, every interface; name the one address to listen at")
    where = urlsplit(scheduler)
    if where.scheme not in ("tcp", "tls") or where.port is None:
        raise InputError(f"fleet: {scheduler!r} is no address of a scheduler, such as tcp://10.0.0.1:8786")
    if host is None and where.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise InputError(
            f"fleet: the scheduler {scheduler} is another machine, and would not reach loopback: "
            "give host, the address by which it can"
        )
    if folder is not None:
        os.environ[FOLDER] = os.fspath(folder)
    if allow_code:
        os.environ[ALLOW_CODE] = "1"
    asyncio.run(_offered(scheduler, device, host or "127.0.0.1", security))


async def _offered(scheduler: str, device: str, host: str, security: Security | None) -> None:
    import dask
    from distributed import Worker

    from archcost.fleet.engines import startup
    from archcost.fleet.gate import token

    # Without a nanny, which would start again what crashed: the measurement has its own process.
    dask.config.set({"distributed.worker.memory.terminate": False})
    said = False
    while True:
        with suppress(OSError, TimeoutError):
            why = await _refusal(scheduler, device, security)
            if why is not None:
                raise FleetError(f"fleet: the scheduler refuses this machine: {why}")
            worker = await Worker(
                scheduler, nthreads=2, name=device, host=host, resources={token(device): 1},
                security=security, startup_information={"archcost": startup(device)},
                dashboard=False, death_timeout=30,
            )  # fmt: skip
            _tell(f"device {device} offered to {scheduler} from {worker.address}")
            said = False
            await worker.finished()
        if not said:
            _tell(f"no scheduler at {scheduler}; waiting for it")
            said = True
        await asyncio.sleep(_AGAIN)


async def _refusal(scheduler: str, device: str, security: Security | None) -> str | None:
    """The reason why the scheduler would refuse this machine."""
    from distributed import Client

    async with Client(scheduler, security=security, asynchronous=True, timeout=10) as client:
        found: str | None = await client.run_on_scheduler(_asked, facts=facts(device))
        return found


def _asked(facts: dict[str, Any], dask_scheduler: Scheduler) -> str | None:
    """`why_not` on the scheduler, whose versions count."""
    from archcost.fleet.gate import why_not

    others = {
        address: own
        for address, state in dask_scheduler.workers.items()
        if (own := state.extra.get("archcost"))
    }
    return why_not(facts, versions(), others)


def status(place: str, security: Security | None = None) -> str:
    """Lines about the devices of a scheduler at an address, or of a store.

    Raises:
        FleetError: there is neither.
    """
    if "://" in place:
        from archcost.fleet.engines import OnDask

        _dask()
        engine = OnDask(place, security)
        try:
            workers = engine.client.scheduler_info(n_workers=-1)["workers"]
            found = [
                f"{one['archcost']['device']}: {_running(one)} running, "
                f"torch {one['archcost']['versions']['torch']}, {address}; {one['archcost']['machine']}"
                for address, one in workers.items()
                if one.get("archcost")
            ]
            dashboard = [f"dask's dashboard: {engine.dashboard}"] if engine.dashboard else []
            return "".join(f"{line}\n" for line in [*(found or ["no device"]), *dashboard])
        finally:
            engine.close()
    if not os.path.isfile(place):
        raise FleetError(f"fleet: {place} is neither a store nor an address such as tcp://10.0.0.1:8786")
    from archcost.fleet.kept import FleetStore

    with FleetStore(place) as store:
        lines = [f"{len(store.papers())} models on paper\n"]
        for mark in store.devices():
            states = list(store.states(mark).values())
            done, failed = states.count("done"), states.count("failed")
            lines.append(f"{mark.partition('@')[2]}: {done} tasks done, {failed} failed\n")
        return "".join(lines)


def _running(worker: Mapping[str, Any]) -> int:
    """The number of tasks that a worker was at when it last told the scheduler."""
    return int(worker["metrics"].get("task_counts", {}).get("executing", 0))


def _dask() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise FleetError("fleet: dask.distributed is missing: pip install 'archcost[fleet]'") from error


def _tell(text: str) -> None:
    print(f"archcost: {text}", file=sys.stderr, flush=True)
