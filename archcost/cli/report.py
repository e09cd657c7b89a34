"""archcost report: a result as one HTML page that opens from disk."""

from __future__ import annotations

import argparse

from archcost.cli.options import SPEC, Commands, Parser, input_options, inputs
from archcost.cli.output import DONE
from archcost.errors import SpecError

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    report = commands.add_parser(
        "report", parents=[common], help="one HTML page with pictures, to open from disk and to send"
    )
    report.add_argument("spec", metavar="SPEC", help=f"{SPEC}, or a file that --save wrote")
    input_options(report)
    report.add_argument(
        "--weights", metavar="FILE", help="a state dict: .pt/.pth (plain tensors only) or .safetensors"
    )
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.report.result import Result
    from archcost.report.saving import load_result

    if args.output in (None, "-"):
        raise SpecError("report writes one file, and never to stdout: give -o report.html")
    found: Result
    if args.spec.endswith((".json", ".html")):
        found = load_result(args.spec)
    else:
        from archcost.analysis.analysis import analyze

        found = analyze(args.spec, weights=args.weights, **inputs(args))
    found.to_html(args.output)
    print(args.output)
    return DONE
