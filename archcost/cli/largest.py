"""archcost largest: the largest batch or input that fits into a memory."""

from __future__ import annotations

import argparse

from archcost.cli.options import SPEC, Commands, Parser, count, given, report_options, size_option, sizes
from archcost.cli.output import DONE, write

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    largest = commands.add_parser(
        "largest", parents=[common], help="the largest batch or input that fits into a memory"
    )
    largest.add_argument("spec", metavar="SPEC", help=SPEC)
    largest.add_argument("--memory", metavar="SIZE", required=True, help="the memory: '8 GB', '7.5 GiB'")
    largest.add_argument("--of", choices=("batch", "input"), default="batch", help="default: batch")
    largest.add_argument("--training", action="store_true", help="a training step; default: inference")
    largest.add_argument("--optimizer", metavar="NAME", help="one of torch.optim; default: adamw")
    largest.add_argument("--dtype", help="dtype of the input, such as int64 of tokens; default: the model's")
    largest.add_argument("--device", help="cpu, with the workspace of oneDNN; default: cpu")
    largest.add_argument(
        "--multiple", type=count, metavar="N", help="with --of input, sides tried are multiples; default: 32"
    )
    size_option(largest)
    report_options(largest)
    largest.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.analysis.largest import largest_batch, largest_input

    options = given(optimizer=args.optimizer, dtype=args.dtype, device=args.device)
    more = {"memory": args.memory, "training": args.training, **options}
    if args.of == "input":
        more |= given(multiple=args.multiple)
    write(args, (largest_input if args.of == "input" else largest_batch)(args.spec, sizes(args), **more))
    return DONE
