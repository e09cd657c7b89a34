"""Where results go: stdout, or a file that is overwritten only when forced."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from archcost.errors import SpecError

if TYPE_CHECKING:
    from archcost.report.result import Options, Result

__all__ = [
    *("DONE", "FAILED", "FINDINGS", "INTERRUPTED"),
    *("check_output", "check_writable", "emit", "shown_options", "told", "write", "write_file"),
]

# Exit codes; `archcost.cli` says what each means.
DONE, FINDINGS, FAILED, INTERRUPTED = 0, 1, 2, 130


def write(args: argparse.Namespace, result: Result) -> None:
    """Print or write a result as the options of `archcost.cli.options.report_options` say.

    ``-o NAME.html`` is the page, where they name no other format.
    """
    options = shown_options(args)
    if args.save is not None:
        result.save(args.save)
        told(args.save)
    if args.format == "table" and args.output in (None, "-"):
        result.table(**options)
        return
    if args.format in ("table", "html") and (args.output or "").endswith(".html"):
        result.to_html(args.output, **options)
        told(args.output)
        return
    form = "text" if args.format == "table" else args.format
    text = getattr(result, f"to_{form}")(**options)
    emit(args, text if text.endswith("\n") else f"{text}\n")
    for note in getattr(result, "notes", ()) if args.format == "csv" else ():
        print(f"note: {note}", file=sys.stderr)


def shown_options(args: argparse.Namespace) -> Options:
    """The values of `archcost.cli.options.report_options` that a `Result` takes, as far as given."""
    asked = ((name, getattr(args, name, None)) for name in ("columns", "depth", "sort", "top", "by", "full"))
    return cast("Options", {name: value for name, value in asked if value is not None and value is not False})


def check_output(args: argparse.Namespace) -> None:
    """`check_writable` for the files of ``-o`` and ``--save``."""
    if args.output != "-":
        check_writable(args.output, args.force)
    check_writable(getattr(args, "save", None), args.force)


def check_writable(name: str | None, force: bool) -> None:
    """Before the work: raises SpecError where the file cannot be written, or exists without ``force``."""
    if name is None:
        return
    path = Path(name)
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise SpecError(f"{name} cannot be written: it is a folder, or its folder does not exist")
    if path.exists() and not force:
        raise SpecError(f"{name} exists; --force overwrites it")


def emit(args: argparse.Namespace, text: str) -> None:
    """Write the text to stdout, or into the file of ``-o``."""
    if args.output in (None, "-"):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    write_file(args.output, text)
    told(args.output)


def told(name: str) -> None:
    """Say on stderr that a file was written."""
    print(f"archcost: wrote {name}", file=sys.stderr)


def write_file(name: str, text: str) -> None:
    """Write a file as UTF-8; raises SpecError where that fails."""
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot write {name}: {error.strerror}") from error
