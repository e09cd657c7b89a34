"""archcost footprint: flash and SRAM of a deployment in other dtypes, on paper."""

from __future__ import annotations

import argparse

from archcost.cli.options import SPEC, Commands, Parser, given, report_options, size_option, sizes
from archcost.cli.output import DONE, FINDINGS, write

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    footprint = commands.add_parser(
        "footprint", parents=[common], help="flash and SRAM in other dtypes, on paper: nothing is quantised"
    )
    footprint.add_argument("spec", metavar="SPEC", help=SPEC)
    size_option(footprint)
    footprint.add_argument("--weights-dtype", metavar="DTYPE", help="that of the weights; default: int8")
    footprint.add_argument("--activations-dtype", metavar="DTYPE", help="that of activations; default: int8")
    footprint.add_argument("--flash", metavar="SIZE", help="a limit on the weights: '1 MB'")
    footprint.add_argument("--sram", metavar="SIZE", help="a limit on the activations: '320 KB'")
    footprint.add_argument(
        "--depthwise-in-place", action="store_true", help="depthwise convolutions write over their input"
    )
    report_options(footprint)
    footprint.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.analysis.footprint import footprint

    options = given(
        weights=args.weights_dtype, activations=args.activations_dtype, flash=args.flash, sram=args.sram
    )
    in_place = args.depthwise_in_place
    found = footprint(args.spec, input_size=sizes(args), depthwise_in_place=in_place, **options)
    write(args, found)
    return DONE if found.fits else FINDINGS
