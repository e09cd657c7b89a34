"""archcost fleet: many models on many machines, and the tables that come of it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from archcost.cli.options import Commands, Parser, count, given, names, report_options
from archcost.cli.output import DONE, FINDINGS, INTERRUPTED, check_writable, emit, told, write
from archcost.errors import SpecError

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    fleet = commands.add_parser("fleet", help="many models measured on many machines, and tables of them")
    actions = fleet.add_subparsers(dest="action", metavar="ACTION", required=True)
    plain = Parser(add_help=False)
    plain.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    tls = Parser(add_help=False)
    for name in ("ca-file", "cert", "key"):
        tls.add_argument(f"--tls-{name}", metavar="FILE", help="dask's TLS, with a scheduler at tls://")
    measure = actions.add_parser(
        "measure", parents=[plain, tls], help="measure models: every distinct layer once on each device"
    )
    measure.add_argument(
        "models", metavar="SPEC", nargs="+", help="SPECs, or patterns as in 'torchvision:resnet*'"
    )
    measure.add_argument(
        "-o", "--output", metavar="STORE", help="the file of the results; default: your store"
    )
    measure.add_argument("--scheduler", metavar="ADDRESS", help="of a dask scheduler; default: a worker here")
    measure.add_argument(
        "--devices", type=names, metavar="A,B,...", help="default: all that are there or join"
    )
    measure.add_argument(
        "--seconds", type=float, metavar="S", help="time for a model on a device; default: 30"
    )
    measure.add_argument("--batch", type=_counts, metavar="N,...", help="numbers of images; default: 1,8")
    measure.add_argument("--threads", type=_counts, metavar="N,...", help="threads of PyTorch; default: 1")
    measure.add_argument("--paths", type=names, metavar="A,B,...", help="paths, all, or likely; default: all")
    measure.add_argument("--programs", action="store_true", help="time each model accelerated as well")
    measure.add_argument("--patience", type=float, metavar="S", help="wait so long for devices; default: 60")
    measure.add_argument(
        "--drift", type=float, metavar="X", help="change of speed that sets a device aside; default: 0.2"
    )
    measure.add_argument(
        "--settle", type=float, metavar="S", help="give up a device restless for so long; default: 600"
    )
    measure.add_argument("--retry", action="store_true", help="try again what failed in earlier runs")
    report_options(measure)
    worker = actions.add_parser("worker", parents=[plain, tls], help="offer this machine as a device")
    worker.add_argument("scheduler", metavar="SCHEDULER", help="its address, as in tcp://10.0.0.1:8786")
    worker.add_argument(
        "--device", metavar="NAME", required=True, help="the name of this machine as a device"
    )
    worker.add_argument("--host", metavar="ADDRESS", help="where it listens; default: loopback")
    worker.add_argument("--cores", type=_counts, metavar="N,...", help="processor cores to measure on")
    worker.add_argument(
        "--folder", metavar="FOLDER", help="where its own store is; default: the cache folder"
    )
    worker.add_argument("--allow-code", action="store_true", help="also take SPECs that are files or modules")
    status = actions.add_parser("status", parents=[plain, tls], help="the devices of a scheduler or a store")
    status.add_argument("place", metavar="SCHEDULER|STORE")
    export = actions.add_parser("export", parents=[plain], help="the table of a store for others to use")
    export.add_argument("store", metavar="STORE", help="written by archcost fleet measure")
    export.add_argument("--format", choices=("csv", "json", "parquet"), default="csv", help="default: csv")
    export.add_argument("-o", "--output", metavar="FILE", help="write to FILE; - is stdout")
    export.add_argument("--force", action="store_true", help="overwrite files that exist")
    fleet.set_defaults(run=run, output=None, force=True)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    return {"measure": _measure, "worker": _worker, "status": _status, "export": _export}[args.action](args)


def _measure(args: argparse.Namespace) -> int:
    from archcost.fleet.fleet import FleetInterrupted, measure

    store, args.output = args.output, None  # -o is the store; the table goes to stdout
    paths = args.paths[0] if args.paths in (["all"], ["likely"]) else args.paths
    options = given(
        seconds=args.seconds, batch=args.batch, threads=args.threads, paths=paths,
        patience=args.patience, drift=args.drift, settle=args.settle,
    )  # fmt: skip
    try:
        found = measure(
            args.models, client=args.scheduler, devices=args.devices, programs=args.programs, store=store,
            retry=args.retry, security=_security(args), **options,
        )  # fmt: skip
    except FleetInterrupted as stopped:
        write(args, stopped.found)
        print("archcost: interrupted; all that is done is kept: the same command goes on", file=sys.stderr)
        return INTERRUPTED
    write(args, found)
    return FINDINGS if found.failed else DONE


def _worker(args: argparse.Namespace) -> int:
    from archcost.fleet.child import CORES
    from archcost.fleet.offering import offer

    if args.cores:
        # For the measuring process alone: dask's own threads would interrupt it there.
        there = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        try:
            os.sched_setaffinity(0, args.cores)
            os.sched_setaffinity(0, there)
            os.environ[CORES] = ",".join(map(str, args.cores))
        except (AttributeError, OSError) as error:
            raise SpecError(
                f"fleet: --cores: this machine cannot be kept to {args.cores}: {error}"
            ) from error
    offer(
        args.scheduler, args.device, host=args.host, folder=args.folder, allow_code=args.allow_code,
        security=_security(args),
    )  # fmt: skip
    return DONE


def _status(args: argparse.Namespace) -> int:
    from archcost.fleet.offering import status

    emit(args, status(args.place, _security(args)))
    return DONE


def _export(args: argparse.Namespace) -> int:
    from archcost.fleet.exporting import export

    path = None if args.output in (None, "-") else args.output
    check_writable(path, args.force)
    text = export(args.store, path, args.format)
    if text is not None:
        emit(args, text)
    else:
        told(str(path))
    return DONE


def _security(args: argparse.Namespace) -> Security | None:
    files = {"ca_file": args.tls_ca_file, "cert": args.tls_cert, "key": args.tls_key}
    if not any(files.values()):
        return None
    if not all(files.values()):
        raise SpecError("fleet: TLS needs all three of --tls-ca-file, --tls-cert and --tls-key")
    from archcost.fleet.offering import security

    return security(**files)


def _counts(text: str) -> list[int]:
    return [count(one) for one in names(text)]
