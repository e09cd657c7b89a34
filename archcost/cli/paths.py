"""archcost paths: the ways to execute a convolution."""

from __future__ import annotations

import argparse
from typing import Any

from archcost.cli.output import DONE, emit

__all__ = ["add", "run"]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    paths = commands.add_parser("paths", parents=[common], help="the ways to execute a convolution")
    paths.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    paths.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit code."""
    from archcost.report.paths import paths_record, paths_text

    if args.format == "json":
        from archcost.report.records import dump

        emit(args, dump(paths_record(), 2))
    else:
        emit(args, paths_text())
    return DONE
