"""archcost check: budgets and findings at the lines that build the layers."""

from __future__ import annotations

import argparse
import sys

from archcost.cli.options import SPEC, Commands, Parser, names, size_option, sizes
from archcost.cli.output import DONE, emit

__all__ = ["add", "run"]

FORMATS = ("text", "json", "sarif", "github", "markdown")


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    check = commands.add_parser(
        "check",
        parents=[common],
        help="hold a project's models against their budgets; findings at file and line",
    )
    check.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help=f"a model of the configuration, or a SPEC ({SPEC}); default: every configured model",
    )
    check.add_argument(
        "--config", metavar="FILE", help="the file with [tool.archcost]; default: the nearest pyproject.toml"
    )
    check.add_argument(
        "--level", metavar="LEVEL", help="findings that fail: note, warning or error; default: warning"
    )
    for option, text in (("--select", "look for these codes only"), ("--ignore", "leave these codes out")):
        check.add_argument(
            option,
            action="append",
            type=names,
            metavar="CODE,...",
            help=f"{text}: AC101, AC2 or small-kernels",
        )
    check.add_argument(
        "--slower-too", action="store_true", help="also what was measured to be slower on this machine"
    )
    size_option(check)
    check.add_argument("--store", metavar="STORE", help="the file of measured times; :memory: has none")
    check.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    check.add_argument("--explain", metavar="CODE", help="print what a code means and what to do, and stop")
    check.add_argument("--list", action="store_true", help="print every code, and stop")
    check.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.integrations.checking import codes

    if args.list or args.explain is not None:
        texts = [codes.explained(args.explain)] if args.explain is not None else codes.listed()
        emit(args, "\n".join(texts) + "\n")
        return DONE
    from archcost.integrations.checking.check import check
    from archcost.integrations.checking.reporting import REPORTERS

    result = check(
        args.models or None,
        config=args.config,
        level=args.level,
        select=_all(args.select),
        ignore=_all(args.ignore) or (),
        slower_too=args.slower_too,
        raise_failures=args.debug,
        input_size=sizes(args),
        store=args.store,
    )
    emit(args, REPORTERS[args.format](result).rstrip("\n") + "\n")
    for failure in result.failures:
        print(f"archcost: {failure}", file=sys.stderr)
    return result.exit_code


def _all(given: list[list[str]] | None) -> list[str] | None:
    return None if given is None else [word for words in given for word in words]
