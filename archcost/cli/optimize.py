"""archcost optimize: the best model within a budget; writes its weights, the plan and a report."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archcost.cli.options import SPEC, Commands, Parser, count, names, report_options, size_option, sizes
from archcost.cli.output import DONE, FINDINGS, check_writable, write, write_file
from archcost.cli.rewrite import restoring
from archcost.errors import SpecError

if TYPE_CHECKING:
    from archcost.models.building import Loaded
    from archcost.report.result import Result

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser(
        "optimize", parents=[common], help="the best model within a budget, its accuracy kept"
    )
    parser.add_argument("spec", metavar="SPEC", help=SPEC)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--budget",
        nargs="+",
        action="extend",
        metavar="NAME=LIMIT",
        help="macs, params, memory, latency, error, flash or sram: up to 1 a share of the whole model, as in "
        "macs=0.5; beside flash='1 MB' weights_dtype=int8, beside sram activations_dtype=int8",
    )
    what.add_argument(
        "--frontier",
        nargs="?",
        const="macs",
        choices=("macs", "params", "memory", "latency"),
        help="no single model: the error against this cost, by default the MACs, for --points budgets",
    )
    parser.add_argument(
        "--points", type=count, metavar="N", default=10, help="budgets of --frontier; default: 10"
    )
    parser.add_argument("--weights", metavar="FILE", help="the trained weights, a state dict")
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="unlabelled inputs: a folder of images, FILE.pt of a tensor, FILE.npz of archcost.calibrate, or "
        "FILE.py:FUNCTION that returns batches",
    )
    parser.add_argument(
        "--images", type=count, metavar="N", default=512, help="the most images of a folder; default: 512"
    )
    parser.add_argument("--rules", nargs="+", action="extend", type=names, metavar="RULE", help="only these")
    parser.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="layers or patterns that stay",
    )
    parser.add_argument(
        "--no-merge", action="store_true", help="do not merge branches of convolutions into single ones first"
    )
    parser.add_argument(
        "--no-distill", action="store_true", help="do not train the result on the old model's outputs"
    )
    parser.add_argument("--accelerate", action="store_true", help="run archcost.accelerate on the result")
    parser.add_argument("--random-weights", action="store_true", help="go on with untrained weights")
    size_option(parser)
    parser.add_argument(
        "--plan", metavar="FILE", help="where to write the plan as JSON; default: NAME.plan.json beside -o"
    )
    parser.add_argument(
        "--report", metavar="FILE", help="where to write the report: markdown, or the page for NAME.html"
    )
    report_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.frontier is not None:
        return _frontier(args)
    budget = dict(map(_limit, args.budget))
    files = _files(args)
    from archcost.analysis.budget import Budget
    from archcost.optimizing.optimize import optimize

    asked = Budget.of(budget, "--budget: ")
    loaded, options = _given(args)
    found = optimize(
        loaded.model,
        budget=asked,
        distill=False if args.no_distill else None,
        accelerate=args.accelerate,
        **options,
    )
    found = replace(found, before=replace(found.before, name=loaded.spec))
    done = bool(len(found.plan))
    said = restoring(args.spec, files) if done else "Nothing was written.\n"
    if done:
        import torch

        weights, plan = files
        try:
            torch.save(found.model.state_dict(), weights)
        except (OSError, RuntimeError) as error:
            raise SpecError(f"cannot write {weights}: {error}") from error
        write_file(plan, f"{found.plan.to_json()}\n")
    _report(args, found, f"\n```\n{said}```")
    args.output = None  # -o is the file of the weights
    write(args, found)
    if args.format == "table":
        print(f"\n{said}", end="", flush=True)
    return DONE if done else FINDINGS


def _frontier(args: argparse.Namespace) -> int:
    """Error against cost, in place of a single model."""
    from archcost.optimizing.frontier import frontier

    if args.accelerate:
        raise SpecError("--accelerate is of a single model: leave it out beside --frontier")
    check_writable(args.report, args.force)
    loaded, options = _given(args)
    found = frontier(loaded.model, resource=args.frontier, points=args.points, **options)
    found = replace(found, model_name=loaded.spec)
    _report(args, found)
    write(args, found)
    return DONE if found.points else FINDINGS


def _given(args: argparse.Namespace) -> tuple[Loaded, dict[str, Any]]:
    """The model, and the options that a single model and a frontier share."""
    from archcost.cli.data import load_data
    from archcost.models.specs import load

    loaded = load(args.spec, weights=args.weights)
    size = sizes(args) or loaded.input_size
    return loaded, {
        "batches": None if args.data is None else load_data(args.data, args.spec, size, args.images),
        "input_size": size,
        "rules": None if args.rules is None else [name for given in args.rules for name in given],
        "exclude": args.exclude or (),
        "merge": not args.no_merge,
        "random_weights": args.random_weights,
    }


def _report(args: argparse.Namespace, found: Result, more: str = "") -> None:
    if args.report and args.report.endswith(".html"):
        found.to_html(args.report)
    elif args.report:
        write_file(args.report, f"{found.to_markdown()}{more}\n")


def _limit(text: str) -> tuple[str, str | float]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise SpecError(f"--budget: {text!r} is not NAME=LIMIT; write it as in macs=0.5")
    try:
        return name, float(value)
    except ValueError:
        return name, value  # a text such as 4 MB


def _files(args: argparse.Namespace) -> tuple[str, str]:
    """The files of state dict and plan; raises SpecError, before the work, where one cannot be written."""
    if args.output in (None, "-"):
        raise SpecError("optimize needs -o FILE, such as -o new.pt, for the new weights")
    plan = args.plan or os.fspath(Path(args.output).with_suffix(".plan.json"))
    given = [name for name in (args.output, plan, args.report, args.save) if name is not None]
    for name in given:
        check_writable(name, args.force)
    if len({Path(name).resolve() for name in given}) < len(given):
        raise SpecError("-o, --plan, --report and --save name the same file twice")
    return args.output, plan
