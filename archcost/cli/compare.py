"""archcost compare: two models side by side."""

from __future__ import annotations

import argparse
from typing import Any

from archcost.cli.options import FORMATS, SPEC, count, given, input_options, inputs
from archcost.cli.output import DONE, write

__all__ = ["add", "run"]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    compare = commands.add_parser("compare", parents=[common], help="two models side by side")
    compare.add_argument("spec", metavar="SPEC_A", help=SPEC)
    compare.add_argument("other", metavar="SPEC_B")
    input_options(compare)
    compare.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    compare.add_argument("--depth", type=count, metavar="N", help="levels of modules to show (0: the totals)")
    compare.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit code."""
    from archcost.analysis.comparison import compare

    comparison = compare(args.spec, args.other, **inputs(args))
    write(args, comparison, given(depth=args.depth))
    return DONE
