"""archcost sweep: what a model costs at many input sizes, batches and dtypes."""

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
    sweep = commands.add_parser(
        "sweep", parents=[common], help="costs at many input sizes, batches and dtypes, and how they grow"
    )
    sweep.add_argument("spec", metavar="SPEC", help=SPEC)
    sweep.add_argument(
        "--sizes", type=numbers, metavar="A:B:STEP", help="sides of the input: 128:512:32, or 224,448"
    )
    size_option(sweep)
    sweep.add_argument("--batches", type=numbers, metavar="A,B,...", help="batches: 1,8,32, or 1:8")
    sweep.add_argument("--dtypes", type=names, metavar="A,B,...", help="dtypes of weights and inputs")
    sweep.add_argument("--memory", metavar="SIZE", help="say which batches fit into it: '8 GB'")
    sweep.add_argument("--measure", action="store_true", help="run each point: latency and throughput")
    sweep.add_argument("--seconds", type=float, metavar="S", help="time for each point; default: 2")
    sweep.add_argument("--threads", type=count, metavar="N", help="threads of PyTorch, measuring")
    sweep.add_argument("--picture", metavar="FILE", help="draw how the costs grow: .png, .svg or .pdf")
    sweep.add_argument("--yes", action="store_true", help="count more than 10,000 points")
    report_options(sweep)
    sweep.set_defaults(run=run)


def numbers(text: str) -> list[int]:
    """Whole numbers: ``1,8,32``, or ``128:512:32`` with both ends."""
    found: list[int] = []
    try:
        for part in text.split(","):
            low, high, step = ([int(one) for one in part.split(":")] + [0, 0])[:3]
            found += range(low, (high or low) + 1, step or 1)
        if not found or min(found) < 1 or text.count(":") > 2 * (text.count(",") + 1):
            raise ValueError
    except ValueError:
        said = f"{text!r} is no list of numbers of at least 1; write 1,8,32 or 128:512:32"
        raise argparse.ArgumentTypeError(said) from None
    return found


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.cli.output import check_writable
    from archcost.errors import SpecError
    from archcost.latency.sweeping import sweep

    if args.sizes and (args.input_size or args.input):
        raise SpecError("give either --sizes, sides of the model's own input, or --input-size")
    check_writable(args.picture, args.force)
    size = args.sizes or args.input_size or ([sizes(args)] if args.input else None)
    options = given(
        batch=args.batches, dtype=args.dtypes, seconds=args.seconds, threads=args.threads, memory=args.memory,
    )  # fmt: skip
    found = sweep(args.spec, size, measure=args.measure, yes=args.yes, **options)
    if args.picture is not None:
        from archcost.plot import sweep as draw

        draw(found, path=args.picture)
    write(args, found)
    return DONE
