"""archcost accelerate: the whole model as one program of fused steps, and its speedup."""

from __future__ import annotations

import argparse

from archcost.cli.options import (
    SPEC,
    Commands,
    Parser,
    count,
    given,
    report_options,
    size_option,
    sizes,
)
from archcost.cli.output import DONE, write

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    accelerate = commands.add_parser(
        "accelerate", parents=[common], help="the whole model as one program of fused steps"
    )
    accelerate.add_argument("spec", metavar="SPEC", help=SPEC)
    size_option(accelerate)
    accelerate.add_argument(
        "--weights",
        metavar="FILE",
        help="the trained weights, a state dict; a SPEC alone has random ones, and the same times",
    )
    accelerate.add_argument(
        "--threads", type=count, metavar="N", help="threads of PyTorch; default: its own number"
    )
    accelerate.add_argument("--seconds", type=float, metavar="S", help="seconds to measure; default: a few")
    accelerate.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="the largest relative error of the outputs; default: 1e-4",
    )
    accelerate.add_argument(
        "--memory", metavar="SIZE", help="the most that the program may take: '200 MB'; default: what is left"
    )
    accelerate.add_argument(
        "--store", metavar="STORE", help="the file of measured times; :memory: keeps none"
    )
    report_options(accelerate)
    accelerate.add_argument(
        "-v", "--verbose", action="store_true", dest="full", help="every step, also of many"
    )
    accelerate.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.engine.accelerate import accelerate

    options = given(
        threads=args.threads,
        seconds=args.seconds,
        tolerance=args.tolerance,
        memory=args.memory,
        weights=args.weights,
        input_size=sizes(args),
    )
    model = accelerate(args.spec, store=args.store, **options)
    write(args, model.acceleration)
    return DONE
