"""archcost analyze: what every layer of a model costs."""

from __future__ import annotations

import argparse
from typing import Any

from archcost.cli.options import SPEC, given, input_options, inputs, table_options
from archcost.cli.output import DONE, FINDINGS, emit, write
from archcost.errors import SpecError

__all__ = ["add", "run"]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    analyze = commands.add_parser("analyze", parents=[common], help="what every layer of a model costs")
    analyze.add_argument("spec", metavar="SPEC", help=SPEC)
    input_options(analyze)
    table_options(analyze)
    analyze.add_argument(
        "--weights", metavar="FILE", help="a state dict: .pt/.pth (plain tensors only) or .safetensors"
    )
    analyze.add_argument("--operations", action="store_true", help="one row an operation, not a module")
    analyze.add_argument(
        "--check", action="store_true", help="hold the counts against fvcore and FlopCounterMode"
    )
    analyze.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit code."""
    if args.check:
        return _check(args)
    if args.operations and args.format in ("table", "html"):
        raise SpecError("--operations needs --format csv, markdown or json")
    from archcost.analysis.analysis import analyze

    analysis = analyze(args.spec, weights=args.weights, **inputs(args))
    options = given(depth=args.depth, top=args.top, sort=args.sort, columns=args.columns)
    if args.operations:
        options |= {"operations": True} if args.format == "json" else {"by": "operations"}
    elif args.format in ("csv", "markdown") and (args.top is not None or args.sort):
        options["by"] = "layers"
    write(args, analysis, options)
    return DONE


def _check(args: argparse.Namespace) -> int:
    from archcost.analysis.crosscheck import crosscheck

    table = ("device", "depth", "top", "sort", "columns", "operations")
    unused = [name for name in table if getattr(args, name)] + ["format"] * (args.format != "table")
    if unused:
        raise SpecError(f"--check prints its own lines; leave --{' and --'.join(unused)} out")
    result = crosscheck(args.spec, weights=args.weights, **inputs(args))
    emit(args, f"{result}\n")
    return DONE if result.agrees else FINDINGS
