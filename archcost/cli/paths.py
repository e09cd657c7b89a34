"""archcost paths: the ways to execute a convolution."""

from __future__ import annotations

import argparse
from typing import Any

from archcost.cli.options import report_options
from archcost.cli.output import DONE, write

__all__ = ["add", "run"]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    paths = commands.add_parser("paths", parents=[common], help="the ways to execute a convolution")
    report_options(paths)
    paths.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit code."""
    from archcost.paths.listing import listed

    write(args, listed())
    return DONE
