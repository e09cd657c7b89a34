"""archcost zoo: torchvision's models against what it publishes."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from archcost.cli.output import DONE, FINDINGS, emit
from archcost.errors import SpecError

TASKS = ("classification", "segmentation", "video", "optical_flow", "quantization", "detection")

__all__ = ["add", "run"]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    zoo = commands.add_parser("zoo", parents=[common], help="torchvision's models against what it publishes")
    zoo.add_argument(
        "pattern", metavar="PATTERN", nargs="?", help="names, as in 'resnet*'; default: all classifiers"
    )
    zoo.add_argument("--task", action="append", choices=TASKS, help="only these; may be repeated")
    zoo.add_argument(
        "--every-weight", action="store_true", help="each published set of weights, at its own size"
    )
    zoo.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit code."""
    from archcost.analysis.zoo import count_entry, zoo_entries
    from archcost.progress import Progress
    from archcost.report.zoo import header, line

    default = None if args.pattern else ("classification",)
    tasks = tuple(args.task) if args.task else default
    entries = zoo_entries(args.pattern or "*", tasks=tasks, every_weight=args.every_weight)
    if not entries:
        raise SpecError(f"no model of task {' or '.join(tasks or ())} matches {args.pattern!r}")
    lines, rows = [header()], []
    live = args.output in (None, "-")
    if live:
        print(lines[0])
    with Progress(len(entries), "counting the zoo", False if sys.stdout.isatty() else None) as bar:
        for entry in entries:
            rows.append(count_entry(entry))
            lines.append(line(rows[-1]))
            if live:
                print(lines[-1], flush=True)
            bar.step(label=entry.name)
    wrong = [row.name for row in rows if not row.matches]
    summary = f"{len(rows)} model{'s' * (len(rows) != 1)}, {len(rows) - len(wrong)} as published"
    if not live:
        emit(args, "\n".join(lines) + "\n")
    print(summary + (f"; not: {', '.join(wrong)}" if wrong else ""), file=sys.stderr)
    return FINDINGS if wrong else DONE
