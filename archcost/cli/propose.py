"""archcost propose: cheaper replacements for every convolution of a model."""

from __future__ import annotations

import argparse
import sys

from archcost.cli.options import (
    SPEC,
    Commands,
    Parser,
    batch_options,
    count,
    names,
    ratio,
    report_options,
    rule_names,
    size_option,
    sizes,
)
from archcost.cli.output import DONE, INTERRUPTED, write

__all__ = ["add", "random_weights", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    propose = commands.add_parser(
        "propose",
        parents=[common],
        help="cheaper replacements for each convolution, and what they save",
    )
    propose.add_argument("spec", metavar="SPEC", help=SPEC)
    size_option(propose)
    propose.add_argument(
        "--weights", metavar="FILE", help="a state dict; the errors shown depend on the weights"
    )
    propose.add_argument(
        "--rules",
        nargs="+",
        action="extend",
        type=names,
        metavar="RULE",
        help="only these rules; default: all",
    )
    propose.add_argument(
        "--ratio",
        nargs="+",
        action="extend",
        type=ratio,
        metavar="R",
        help="MACs of the replacements, as a share of each layer's; default: 0.5",
    )
    propose.add_argument(
        "--layers",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="only these layers, by name or by pattern, as in 'features.*'",
    )
    propose.add_argument(
        "--no-errors", action="store_true", help="do not compute the errors of the new weights"
    )
    batch_options(propose)
    propose.add_argument("--measure", action="store_true", help="time old and new layers here, alternating")
    propose.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        default=60.0,
        help="time budget of --measure, about; default: 60",
    )
    propose.add_argument(
        "--threads", type=count, metavar="N", help="threads of PyTorch; default: its own number"
    )
    propose.add_argument("--store", metavar="STORE", help="the file of measured times; :memory: keeps none")
    report_options(propose)
    propose.add_argument(
        "--all", action="store_true", dest="full", help="all proposals, and why layers are left as they are"
    )
    propose.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.analysis.analysis import analyze
    from archcost.cli.batches import load_batches
    from archcost.latency.timing.settings import settings
    from archcost.rewriting.proposals import propose

    rules = rule_names(args)
    batches = None if args.batches is None else load_batches(args.batches, args.batch_size)
    size = sizes(args)
    if size is None and batches is not None:
        size = (1, *batches[0].shape[1:])
    with settings(threads=args.threads):
        found = propose(
            analyze(args.spec, weights=args.weights, input_size=size),
            rules=rules,
            ratio=args.ratio or 0.5,
            names=args.layers,
            errors=not args.no_errors,
            batches=batches,
            store=args.store,
        )
        stopped = False
        if args.measure:
            try:
                found = found.measured(seconds=args.seconds, store=args.store)
            except KeyboardInterrupt:
                stopped = True
    if not args.no_errors and args.format in ("csv", "json"):  # the others begin with it
        random_weights(args)
    write(args, found)
    if stopped:
        print("archcost: interrupted; times measured until then are kept in the store", file=sys.stderr)
    return INTERRUPTED if stopped else DONE


def random_weights(args: argparse.Namespace) -> None:
    """Print a note that errors of untrained weights say little, where they are untrained."""
    if args.weights is None and args.spec.startswith(("torchvision:", "timm:")):
        print(
            "note: the weights are untrained, and errors of random weights say little; give trained ones by "
            "--weights FILE",
            file=sys.stderr,
        )
