"""archcost accelerate: the whole model with each convolution on its fastest path, and its speedup."""

from __future__ import annotations

import argparse

from archcost.cli.options import (
    SPEC,
    Commands,
    Parser,
    count,
    given,
    names,
    report_options,
    size_option,
    sizes,
)
from archcost.cli.output import DONE, write

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    accelerate = commands.add_parser(
        "accelerate", parents=[common], help="the whole model with each convolution on its fastest path"
    )
    accelerate.add_argument("spec", metavar="SPEC", help=SPEC)
    size_option(accelerate)
    accelerate.add_argument(
        "--weights", metavar="FILE", help="a state dict; the errors shown depend on the weights"
    )
    accelerate.add_argument(
        "--threads", type=count, metavar="N", help="threads of PyTorch; default: its own number"
    )
    accelerate.add_argument(
        "--paths", type=names, metavar="A,B,...", help="candidate paths; PyTorch's own is always one"
    )
    accelerate.add_argument("--seconds", type=float, metavar="S", help="time budget; default: 60")
    accelerate.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="the largest relative error of a layer; default: 1e-4",
    )
    accelerate.add_argument(
        "--store", metavar="STORE", help="the file of measured times; :memory: keeps none"
    )
    accelerate.add_argument(
        "--no-fold",
        dest="fold",
        action="store_false",
        help="leave batch normalisation and activation functions as they are",
    )
    accelerate.add_argument(
        "--no-nan", dest="keeps_nan", action="store_false", help="ReLU may turn NaN into 0"
    )
    report_options(accelerate)
    accelerate.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.accelerating.accelerate import accelerate

    options = given(
        paths=args.paths,
        threads=args.threads,
        seconds=args.seconds,
        tolerance=args.tolerance,
        weights=args.weights,
        input_size=sizes(args),
    )
    model = accelerate(args.spec, store=args.store, fold=args.fold, keeps_nan=args.keeps_nan, **options)
    write(args, model.acceleration)
    return DONE
