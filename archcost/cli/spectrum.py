"""archcost spectrum: the kernels of a model as filters, by layer."""

from __future__ import annotations

import argparse

from archcost.cli.options import SPEC, Commands, Parser, report_options
from archcost.cli.output import DONE, check_writable, write

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    spectrum = commands.add_parser(
        "spectrum", parents=[common], help="kernels as filters: which frequencies each layer passes"
    )
    spectrum.add_argument("spec", metavar="SPEC", help=SPEC)
    spectrum.add_argument(
        "--weights", metavar="FILE", help="a state dict: .pt/.pth (plain tensors only) or .safetensors"
    )
    spectrum.add_argument("--plot", metavar="FILE", help="draw the bands by layer, as .png, .svg or .pdf")
    report_options(spectrum)
    spectrum.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.analysis.spectra import spectrum

    if args.plot:
        from archcost.plot.drawing.canvas import check_path

        check_path(args.plot)
        check_writable(args.plot, args.force)
    found = spectrum(args.spec, weights=args.weights)
    if args.plot:  # before printing: the reader of the pipe may have gone
        from archcost import plot

        plot.spectrum(found, path=args.plot)
    write(args, found)
    return DONE
