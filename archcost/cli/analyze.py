"""archcost analyze: what every layer of a model costs."""

from __future__ import annotations

import argparse

from archcost.cli.options import SPEC, Commands, Parser, input_options, inputs, report_options, sizes
from archcost.cli.output import DONE, FINDINGS, write
from archcost.errors import SpecError

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    analyze = commands.add_parser("analyze", parents=[common], help="what every layer of a model costs")
    analyze.add_argument("spec", metavar="SPEC", help=f"{SPEC}, or a file that --save wrote")
    input_options(analyze)
    report_options(analyze)
    analyze.add_argument(
        "--weights", metavar="FILE", help="a state dict: .pt/.pth (plain tensors only) or .safetensors"
    )
    analyze.add_argument(
        "--check", action="store_true", help="compare the MACs with those of fvcore and FlopCounterMode"
    )
    analyze.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        dest="full",
        help="the tree of modules, equal ones once, and the footnotes",
    )
    analyze.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.check:
        from archcost.analysis.cross_check import crosscheck

        if args.device:
            raise SpecError("--check runs the model on its own device; leave --device out")
        result = crosscheck(args.spec, weights=args.weights, input_size=sizes(args), dtype=args.dtype or None)
        write(args, result)
        return DONE if result.agrees else FINDINGS
    from archcost.analysis.analysis import analyze

    write(args, analyze(args.spec, weights=args.weights, **inputs(args)))
    return DONE
