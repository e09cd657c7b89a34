"""archcost paths: the execution paths of convolutions."""

from __future__ import annotations

import argparse

from archcost.cli.options import Commands, Parser, report_options
from archcost.cli.output import DONE, write

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    paths = commands.add_parser(
        "paths", parents=[common], help="the execution paths: every way to execute a convolution"
    )
    paths.add_argument(
        "names", nargs="*", metavar="PATH", help="describe these in detail; default: a line each"
    )
    paths.add_argument("-v", "--verbose", action="store_true", help="describe every path in detail")
    report_options(paths)
    paths.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.paths.listing import listed

    write(args, listed(args.names, args.verbose))
    return DONE
