"""archcost store: the times measured on this and other machines."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from archcost.cli.options import Commands, Parser, days, report_options
from archcost.cli.output import DONE, emit, write

if TYPE_CHECKING:
    from archcost.latency.store.store import Store

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    store = commands.add_parser("store", help="the times measured on this and other machines")
    actions = store.add_subparsers(dest="action", metavar="ACTION", required=True)
    place = Parser(add_help=False, parents=[common])
    place.add_argument(
        "--store", metavar="STORE", help="the file; default: ARCHCOST_STORE, or one in the cache folder"
    )
    listed = actions.add_parser("list", parents=[place], help="list the measurements, by device")
    report_options(listed)
    actions.add_parser("export", parents=[place], help="print all measurements, one line of JSON each")
    imported = actions.add_parser("import", parents=[place], help="add exported measurements")
    imported.add_argument("file", metavar="FILE", help="written by archcost store export")
    merged = actions.add_parser("merge", parents=[place], help="add what other stores hold, fleets' as well")
    merged.add_argument("files", metavar="STORE", nargs="+", help="files of stores; they stay as they are")
    prune = actions.add_parser(
        "prune", parents=[place], help="remove measurements that are old or of other devices"
    )
    prune.add_argument("--older-than", type=days, metavar="DAYS", help="those measured longer ago than this")
    prune.add_argument(
        "--other-devices", action="store_true", help="those of another device or with other software"
    )
    actions.add_parser("path", parents=[place], help="print where the store is")
    store.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    import warnings

    from archcost.latency.store.store import Store

    with warnings.catch_warnings(record=True) as warned, Store(args.store) as store:
        warnings.simplefilter("always")
        try:
            return _STORE_ACTIONS[args.action](args, store)
        finally:
            for warning in warned:
                print(f"archcost: {warning.message}", file=sys.stderr)


def _store_list(args: argparse.Namespace, store: Store) -> int:
    from archcost.latency.store.listing import listed

    write(args, listed(store))
    return DONE


def _store_export(args: argparse.Namespace, store: Store) -> int:
    emit(args, "".join(f"{line}\n" for line in store.lines()))
    return DONE


def _store_import(args: argparse.Namespace, store: Store) -> int:
    count = store.import_(args.file)
    print(f"{count} measurement{'s' * (count != 1)} read", file=sys.stderr)
    return DONE


def _store_merge(args: argparse.Namespace, store: Store) -> int:
    from archcost.fleet.kept import merge

    count = merge(store.path, args.files)
    print(f"{count} measurement{'s' * (count != 1)} and tasks read, {len(store)} kept", file=sys.stderr)
    return DONE


def _store_prune(args: argparse.Namespace, store: Store) -> int:
    from datetime import timedelta

    age = None if args.older_than is None else timedelta(days=args.older_than)
    count = store.prune(older_than=age, other_devices=args.other_devices)
    print(f"{count} measurement{'s' * (count != 1)} removed, {len(store)} kept", file=sys.stderr)
    return DONE


def _store_path(args: argparse.Namespace, store: Store) -> int:
    emit(args, f"{store.path}\n")
    return DONE


_STORE_ACTIONS = {
    "list": _store_list,
    "export": _store_export,
    "import": _store_import,
    "merge": _store_merge,
    "prune": _store_prune,
    "path": _store_path,
}
