"""archcost zoo: counts of torchvision's models beside the published figures."""

from __future__ import annotations

import argparse

from archcost.cli.options import Commands, Parser, report_options
from archcost.cli.output import DONE, FINDINGS, write
from archcost.errors import SpecError

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
    zoo.add_argument(
        "--measured",
        metavar="STORE",
        help="accuracy, MACs and the latency that archcost fleet measure put into this store",
    )
    zoo.add_argument("--on", metavar="DEVICE", help="with --measured: the device; default: the only one")
    report_options(zoo)
    zoo.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.measured is not None:
        return _measured(args)
    if args.on is not None:
        raise SpecError("zoo: --on goes with --measured")
    from archcost.analysis.zoo import zoo

    default = None if args.pattern else ("classification",)
    tasks = tuple(args.task) if args.task else default
    found = zoo(args.pattern or "*", tasks=tasks, every_weight=args.every_weight)
    write(args, found)
    return DONE if all(row.matches for row in found) else FINDINGS


def _measured(args: argparse.Namespace) -> int:
    from archcost.fleet.zoo import measured_zoo

    write(args, measured_zoo(args.pattern or "*", store=args.measured, device=args.on))
    return DONE
