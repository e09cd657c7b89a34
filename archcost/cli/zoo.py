"""archcost zoo: counts of torchvision's models beside the published figures."""

from __future__ import annotations

import argparse

from archcost.cli.options import Commands, Parser, report_options
from archcost.cli.output import DONE, FINDINGS, write

TASKS = ("classification", "segmentation", "video", "optical_flow", "quantization", "detection")

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    zoo = commands.add_parser(
        "zoo", parents=[common], help="counts of torchvision's models beside the published figures"
    )
    zoo.add_argument(
        "pattern",
        metavar="PATTERN",
        nargs="?",
        help="pattern of model names, as in 'resnet*'; default: all classifiers",
    )
    zoo.add_argument(
        "--task", action="append", choices=TASKS, help="only models of this task; may be repeated"
    )
    zoo.add_argument(
        "--every-weight", action="store_true", help="every published set of weights, at its own input size"
    )
    report_options(zoo)
    zoo.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.analysis.zoo import zoo

    default = None if args.pattern else ("classification",)
    tasks = tuple(args.task) if args.task else default
    found = zoo(args.pattern or "*", tasks=tasks, every_weight=args.every_weight)
    write(args, found)
    return DONE if all(row.matches for row in found) else FINDINGS
