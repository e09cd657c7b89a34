"""archcost store: what was measured on this and other machines."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from archcost.cli.options import days, report_options
from archcost.cli.output import DONE, emit, write

__all__ = ["add", "run"]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    store = commands.add_parser("store", help="what was measured on this and other machines")
    actions = store.add_subparsers(dest="action", metavar="ACTION", required=True)
    place = argparse.ArgumentParser(add_help=False, parents=[common])
    place.add_argument(
        "--store", metavar="STORE", help="the file; default: ARCHCOST_STORE, or one in the cache folder"
    )
    listed = actions.add_parser("list", parents=[place], help="every measurement, by device")
    report_options(listed)
    actions.add_parser("export", parents=[place], help="all of it as lines of JSON")
    imported = actions.add_parser("import", parents=[place], help="take in what was exported")
    imported.add_argument("file", metavar="FILE")
    prune = actions.add_parser("prune", parents=[place], help="remove what is old or of other devices")
    prune.add_argument("--older-than", type=days, metavar="DAYS", help="measured longer ago than this")
    prune.add_argument(
        "--other-devices", action="store_true", help="measured on another device or with other software"
    )
    actions.add_parser("path", parents=[place], help="where the store is")
    store.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit code."""
    import warnings

    from archcost.latency.store.store import Store

    with warnings.catch_warnings(record=True) as warned, Store(args.store) as store:
        warnings.simplefilter("always")
        try:
            return _STORE_ACTIONS[args.action](args, store)
        finally:
            for warning in warned:
                print(f"archcost: {warning.message}", file=sys.stderr)


def _store_list(args: argparse.Namespace, store: Any) -> int:
    from archcost.latency.store.listing import listed

    write(args, listed(store))
    return DONE


def _store_export(args: argparse.Namespace, store: Any) -> int:
    emit(args, "".join(f"{line}\n" for line in store.lines()))
    return DONE


def _store_import(args: argparse.Namespace, store: Any) -> int:
    count = store.import_(args.file)
    print(f"{count} measurement{'s' * (count != 1)} read", file=sys.stderr)
    return DONE


def _store_prune(args: argparse.Namespace, store: Any) -> int:
    from datetime import timedelta

    age = None if args.older_than is None else timedelta(days=args.older_than)
    count = store.prune(older_than=age, other_devices=args.other_devices)
    print(f"{count} measurement{'s' * (count != 1)} removed, {len(store)} kept", file=sys.stderr)
    return DONE


def _store_path(args: argparse.Namespace, store: Any) -> int:
    emit(args, f"{store.path}\n")
    return DONE


_STORE_ACTIONS = {
    "list": _store_list,
    "export": _store_export,
    "import": _store_import,
    "prune": _store_prune,
    "path": _store_path,
}
