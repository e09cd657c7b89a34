"""archcost train: what one training step costs."""

from __future__ import annotations

import argparse

from archcost.cli.options import SPEC, Commands, Parser, given, report_options, size_option, sizes
from archcost.cli.output import DONE, write

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    train = commands.add_parser(
        "train", parents=[common], help="MACs of a training step by operator, and what its memory holds"
    )
    train.add_argument("spec", metavar="SPEC", help=SPEC)
    size_option(train)
    train.add_argument("--dtype", help="dtype of weights and inputs; default: the model's")
    train.add_argument("--optimizer", metavar="NAME", help="one of torch.optim; default: adamw")
    train.add_argument("--measure", action="store_true", help="time real steps as well")
    report_options(train)
    train.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.latency.training import training_step

    options = given(optimizer=args.optimizer, dtype=args.dtype)
    write(args, training_step(args.spec, input_size=sizes(args), measure=args.measure, **options))
    return DONE
