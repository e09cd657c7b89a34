"""archcost diff: what changed in cost between two versions of a model, for a pull request."""

from __future__ import annotations

import argparse
import os
import sys

from archcost.cli.options import Commands, Parser, input_options, inputs, report_options
from archcost.cli.output import DONE, FINDINGS, shown_options, write
from archcost.errors import SpecError

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    diff = commands.add_parser(
        "diff", parents=[common], help="what changed from one version of a model to the next"
    )
    diff.add_argument(
        "spec",
        metavar="A",
        help="the version before: a SPEC, a file that --save wrote, or at a git revision "
        "path/to/file.py:factory_or_class@REV or package.module:attr@REV",
    )
    diff.add_argument(
        "other", metavar="B", nargs="?", help="the version after; default: A in the working tree"
    )
    input_options(diff)
    report_options(diff)
    diff.add_argument(
        "--fail-on",
        action="append",
        default=[],
        metavar="LIMIT",
        help="exit with 1 where it breaks; may be repeated: 'macs>+5%%', 'params>+100k', 'peak_memory>+2MB' "
        "(against A), 'macs>4.2G' (B alone)",
    )
    diff.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.analysis.difference import Difference
    from archcost.analysis.totals import limit_of
    from archcost.integrations.revisions import Version, analyze_versions, version_of

    limits = tuple(map(limit_of, args.fail_on))
    before = version_of(args.spec)
    if args.other is None and before.revision is None:
        raise SpecError(f"diff: give a second model, or a git revision to compare with: {args.spec}@main")
    after = Version(before.spec) if args.other is None else version_of(args.other)
    a, b, remarks = analyze_versions(before, after, inputs(args))
    result = Difference(a, b, limits, remarks)
    write(args, result)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(summary, result.to_markdown(**shown_options(args)))
    if args.format in ("csv", "json") or args.output not in (None, "-"):
        for verdict in result.broken:
            print(f"archcost: {verdict.text}", file=sys.stderr)
    return FINDINGS if result.broken else DONE


def _append(file: str, text: str) -> None:
    try:
        with open(file, "a", encoding="utf-8") as summary:
            summary.write(f"{text}\n")
    except OSError as error:
        raise SpecError(f"cannot write {file} (GITHUB_STEP_SUMMARY): {error.strerror}") from error
