"""archcost report: a result as one HTML page that opens from disk."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from archcost.cli.options import SPEC, Commands, Parser, input_options, inputs
from archcost.cli.output import DONE, INTERRUPTED
from archcost.errors import ArchcostError, SpecError

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis
    from archcost.latency.measured import Measured
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
    report.add_argument(
        "--measure", action="store_true", help="time the model here, for the times of its modules and layers"
    )
    report.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        default=60.0,
        help="time budget of --measure, about; default: 60",
    )
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.report.saving import load_result

    if args.output in (None, "-"):
        raise SpecError("report writes one file, and never to stdout: give -o report.html")
    found: Result
    if args.spec.endswith((".json", ".html")):
        options = ("weights", "input_size", "input", "dtype", "device", "measure")
        unused = [name for name in options if getattr(args, name)]
        if unused:
            named = " and ".join(f"--{name.replace('_', '-')}" for name in unused)
            raise SpecError(f"{args.spec} holds a result with its inputs; leave {named} out")
        found = load_result(args.spec)
    else:
        from archcost.analysis.analysis import analyze

        analysis = analyze(args.spec, weights=args.weights, **inputs(args))
        timed = _measured(analysis, args.seconds) if args.measure else None
        found = analysis if timed is None else timed
        if not args.no_propose and (timed is None or not timed.interrupted):
            found = _with_proposals(analysis, timed, errors=args.weights is not None)
    found.to_html(args.output)
    print(args.output)
    return INTERRUPTED if getattr(found, "interrupted", False) else DONE


def _measured(analysis: Analysis, seconds: float) -> Measured:
    """The times of the model here; what had been measured by then after Ctrl-C."""
    from archcost.latency.measure import measure
    from archcost.latency.measured import MeasuringInterrupted

    try:
        return measure(analysis, seconds=seconds)
    except MeasuringInterrupted as stopped:
        return stopped.found


def _with_proposals(analysis: Analysis, timed: Measured | None, errors: bool) -> Result:
    """Proposals for the model, or what was counted and measured alone where there can be none."""
    from archcost.rewriting.proposals import propose

    try:
        found = propose(analysis, errors=errors)
    except ArchcostError as error:
        print(f"note: no proposals: {error}", file=sys.stderr)
        return analysis if timed is None else timed
    return found if timed is None else replace(found, timed=replace(timed, analysis=None))
