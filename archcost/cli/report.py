"""archcost report: a result as one HTML page that opens from disk."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from archcost.cli.options import SPEC, Commands, Parser, input_options, inputs
from archcost.cli.output import DONE
from archcost.errors import ArchcostError, SpecError

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis
    from archcost.report.result import Result

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
    report.add_argument(
        "--no-propose", action="store_true", help="what the model costs only, without cheaper replacements"
    )
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.report.saving import load_result

    if args.output in (None, "-"):
        raise SpecError("report writes one file, and never to stdout: give -o report.html")
    found: Result
    if args.spec.endswith((".json", ".html")):
        given = [
            name for name in ("weights", "input_size", "input", "dtype", "device") if getattr(args, name)
        ]
        if given:
            named = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise SpecError(f"{args.spec} holds a result with its inputs; leave {named} out")
        found = load_result(args.spec)
    else:
        from archcost.analysis.analysis import analyze

        found = analysis = analyze(args.spec, weights=args.weights, **inputs(args))
        if not args.no_propose:
            found = _with_proposals(analysis, errors=args.weights is not None)
    found.to_html(args.output)
    print(args.output)
    return DONE


def _with_proposals(analysis: Analysis, errors: bool) -> Result:
    """Proposals for the model, or the Analysis alone where there can be none."""
    from archcost.rewriting.proposals import propose

    try:
        return propose(analysis, errors=errors)
    except ArchcostError as error:
        print(f"note: no proposals: {error}", file=sys.stderr)
        return analysis
