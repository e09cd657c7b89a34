"""archcost rewrite: replace layers by cheaper ones; writes a state dict and the plan that belongs to it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from archcost.cli.options import (
    SPEC,
    Commands,
    Parser,
    batch_options,
    count,
    names,
    ratio,
    report_options,
    rule_names,
    size_option,
    sizes,
)
from archcost.cli.output import DONE, FINDINGS, check_writable, write, write_file
from archcost.cli.propose import random_weights
from archcost.errors import SpecError

if TYPE_CHECKING:
    from archcost.rewriting.proposals import Proposals
    from archcost.rewriting.replacement import Option
    from archcost.rewriting.rewritten import Choice, Choices, Rewritten
    from archcost.trace.call import Inputs

__all__ = ["add", "restoring", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    rewrite = commands.add_parser(
        "rewrite", parents=[common], help="replace layers by cheaper ones, the weights carried over"
    )
    rewrite.add_argument("spec", metavar="SPEC", help=SPEC)
    what = rewrite.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--rules",
        nargs="+",
        action="extend",
        type=names,
        metavar="RULE",
        help="these rules, wherever they apply",
    )
    what.add_argument(
        "--layers",
        nargs="+",
        action="extend",
        metavar="NAME=RULE",
        help="a rule for each layer or pattern, as in 'features.*=asymmetric' or 'conv1=bottleneck:rank=16'",
    )
    what.add_argument(
        "--proposals",
        metavar="FILE",
        help="the best proposals of a file that propose or report wrote (--save, or a page)",
    )
    rewrite.add_argument(
        "--ratio",
        type=ratio,
        metavar="R",
        default=0.5,
        help="MACs of the replacements, as a share of each layer's; default: 0.5",
    )
    rewrite.add_argument(
        "--budget",
        type=ratio,
        metavar="B",
        help="with --rules, instead of --ratio: the share for all layers together that a rule applies to",
    )
    size_option(rewrite)
    rewrite.add_argument("--weights", metavar="FILE", help="the trained weights, a state dict")
    batch_options(rewrite)
    rewrite.add_argument("--measure", action="store_true", help="time old and new model here, alternating")
    rewrite.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        default=20.0,
        help="time budget of --measure, about; default: 20",
    )
    rewrite.add_argument(
        "--threads", type=count, metavar="N", help="threads of PyTorch; default: its own number"
    )
    rewrite.add_argument(
        "--store", metavar="STORE", help="the file of measured times, for rules that need them"
    )
    rewrite.add_argument(
        "--plan", metavar="FILE", help="where to write the plan as JSON; default: NAME.plan.json beside -o"
    )
    rewrite.add_argument(
        "--report",
        metavar="FILE",
        help="where to write the comparison of old and new: markdown, or the page for NAME.html",
    )
    rewrite.add_argument("--python", metavar="FILE", help="where to write the new layers as Python source")
    report_options(rewrite)
    rewrite.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    files = _files(args)
    rules, saved = rule_names(args), None if args.proposals is None else _saved(args.proposals)
    choices: Choices | None = None if args.layers is None else dict(_choices(args.layers))
    from archcost.cli.batches import load_batches
    from archcost.latency.timing.deadline import TooLittleTime
    from archcost.latency.timing.settings import settings
    from archcost.models.specs import load
    from archcost.rewriting.rewritten import rewrite
    from archcost.trace.call import like_traced

    batches = None if args.batches is None else load_batches(args.batches, args.batch_size)
    loaded = load(args.spec, weights=args.weights)
    size = sizes(args)
    inputs: Inputs = None
    if size is None and batches is not None:
        inputs = batches[0][:1]  # real values, and costs of one input as elsewhere
    elif size is None and saved is not None:
        inputs = like_traced(saved.analysis.trace)
    elif size is None:
        size = loaded.input_size
    if saved is not None:
        choices = saved.best()
    with settings(threads=args.threads, flush_denormals=False):
        found = rewrite(
            loaded.model,
            inputs,
            choices,
            rules=rules,
            ratio=args.ratio,
            budget=args.budget,
            batches=batches,
            store=args.store,
            input_size=size,
        )
        # The name as in other commands, and the note on an assumed input size.
        assumed = (loaded.assumed,) if size is not None and size is loaded.input_size else ()
        before = replace(found.before, name=loaded.spec, notes=(*assumed, *found.before.notes))
        found = replace(found, before=before)
        untimed = ""
        if args.measure and found.outcomes:
            try:
                found.race(args.seconds)
            except TooLittleTime as error:
                untimed = f"Not timed: {error}.\n"
    done = bool(found.outcomes)
    said = restoring(args.spec, files) if done else "Nothing was written.\n"
    # Files before printing: the reader of the pipe may have gone.
    if done:
        _write(found, files, args.python)
    if args.report and args.report.endswith(".html"):
        found.to_html(args.report)
    elif args.report:
        write_file(args.report, f"{found.to_markdown()}\n```\n{said}```\n")
    print(untimed, end="", file=sys.stderr)
    if done:
        random_weights(args)
    args.output = None  # -o is the file of the weights
    write(args, found)
    if args.format == "table":
        print(f"\n{said}", end="", flush=True)
    else:
        print(said, end="", file=sys.stderr)
    return DONE if done else FINDINGS


def _files(args: argparse.Namespace) -> tuple[str, str]:
    """The files of state dict and plan; raises SpecError, before the work, where a file cannot be written."""
    if args.output in (None, "-"):
        raise SpecError("rewrite needs -o FILE, such as -o new.pt, for the new weights")
    plan = args.plan or os.fspath(Path(args.output).with_suffix(".plan.json"))
    all_ = (args.output, plan, args.report, args.python, args.save)
    given = [name for name in all_ if name is not None]
    for name in given:
        check_writable(name, args.force)
    if len({Path(name).resolve() for name in given}) < len(given):
        raise SpecError("-o, --plan, --report, --python and --save name the same file twice")
    return args.output, plan


def _saved(name: str) -> Proposals:
    """The proposals in a file; raises SpecError for a file without any."""
    from archcost.report.saving import load_result
    from archcost.rewriting.proposals import Proposals

    found = load_result(name)
    if not isinstance(found, Proposals):
        raise SpecError(
            f"{name} holds no proposals: archcost propose --save, or archcost report, writes them"
        )
    if not found.best():
        raise SpecError(f"{name}: none of its proposals is recommended")
    return found


def _choices(given: list[str]) -> Iterator[tuple[str, Choice]]:
    """``NAME=RULE`` and ``NAME=RULE:option=value,...`` as `archcost.rewrite` takes them."""
    from archcost.rewriting import get

    for text in given:
        name, equals, rest = text.partition("=")
        rule, colon, options = rest.partition(":")
        if not (name and equals and rule):
            raise SpecError(f"--layers: {text!r} is not NAME=RULE; write it as in conv1=asymmetric")
        get(rule)
        yield name, (rule, dict(_options(text, options))) if colon else rule


def _options(text: str, given: str) -> Iterator[tuple[str, Option]]:
    for part in given.split(","):
        name, equals, value = part.partition("=")
        if not (name.strip() and equals):
            raise SpecError(f"--layers: {text!r}: {part!r} is not option=value; write it as in rank=16")
        try:
            yield name.strip(), json.loads(value)
        except ValueError:
            yield name.strip(), value.strip()  # a word


def _write(found: Rewritten, files: tuple[str, str], python: str | None) -> None:
    import torch

    weights, plan = files
    try:
        torch.save(found.model.state_dict(), weights)
    except (OSError, RuntimeError) as error:
        raise SpecError(f"cannot write {weights}: {error}") from error
    write_file(plan, f"{found.plan.to_json()}\n")
    if python is not None:
        write_file(python, found.plan.to_python())


def restoring(spec: str, files: tuple[str, str]) -> str:
    """Lines of Python that build the rewritten model again."""
    weights, plan = files
    return (
        f"# The new weights are in {weights}, the plan in {plan}. To build the model again:\n"
        f"import archcost, torch\n"
        f"model = archcost.load({spec!r}).model  # or built as you build it\n"
        f"model = archcost.Plan.from_json({plan!r}).apply(model, weights=False)\n"
        f"model.load_state_dict(torch.load({weights!r}, weights_only=True))\n"
    )
