"""archcost measure: how long each convolution takes here."""

from __future__ import annotations

import argparse
import sys

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
from archcost.cli.output import DONE, INTERRUPTED, write

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    measure = commands.add_parser(
        "measure", parents=[common], help="how long each convolution takes here, and its fastest path"
    )
    measure.add_argument("spec", metavar="SPEC", help=SPEC)
    size_option(measure)
    measure.add_argument(
        "--batch", type=count, metavar="N", help="inputs in a batch; default: those of the input size"
    )
    measure.add_argument(
        "--weights", metavar="FILE", help="a state dict; the errors shown depend on the weights"
    )
    measure.add_argument(
        "--threads", type=count, metavar="N", help="threads of PyTorch; default: its own number"
    )
    measure.add_argument(
        "--paths", type=names, metavar="A,B,...", help="these paths, or all; default: the likely fast ones"
    )
    measure.add_argument("--seconds", type=float, metavar="S", help="time budget, about; default: 60")
    measure.add_argument(
        "--tolerance", type=float, metavar="T", help="the largest relative error of a path; default: 1e-4"
    )
    measure.add_argument("--store", metavar="STORE", help="the file of measured times; :memory: keeps none")
    measure.add_argument("--again", action="store_true", help="measure again what the store has")
    measure.add_argument(
        "--cold", action="store_true", help="time with inputs outside the processor's caches"
    )
    report_options(measure)
    measure.add_argument(
        "-v", "--verbose", action="store_true", dest="full", help="every convolution, also of many"
    )
    measure.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.analysis.analysis import analyze
    from archcost.latency.measure import measure
    from archcost.latency.measured import MeasuringInterrupted

    analysis = analyze(args.spec, weights=args.weights, input_size=sizes(args))
    paths = "all" if args.paths == ["all"] else args.paths
    options = given(
        paths=paths, threads=args.threads, batch=args.batch, seconds=args.seconds, tolerance=args.tolerance
    )
    try:
        found = measure(analysis, store=args.store, again=args.again, cold=args.cold, **options)
    except MeasuringInterrupted as stopped:
        write(args, stopped.found)
        print(
            "archcost: interrupted; times measured until then are shown, and kept in the store",
            file=sys.stderr,
        )
        return INTERRUPTED
    write(args, found)
    return DONE
