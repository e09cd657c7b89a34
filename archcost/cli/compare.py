"""archcost compare: two models side by side."""

from __future__ import annotations

import argparse

from archcost.cli.options import SPEC, Commands, Parser, input_options, inputs, report_options
from archcost.cli.output import DONE, write

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    compare = commands.add_parser("compare", parents=[common], help="two models side by side")
    compare.add_argument("spec", metavar="A", help=f"{SPEC}, or a file that --save wrote")
    compare.add_argument("other", metavar="B", help="the same, for the other model")
    input_options(compare)
    report_options(compare)
    compare.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.analysis.comparison import compare

    write(args, compare(args.spec, args.other, **inputs(args)))
    return DONE
