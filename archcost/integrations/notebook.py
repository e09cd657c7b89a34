"""Notebooks: the line magic ``%archcost``, after ``%load_ext archcost``."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from archcost.errors import ArchcostError
from archcost.report.document import Asked

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from archcost.report.result import Result

__all__ = ["load_ipython_extension"]

_VIEW = ("columns", "depth", "sort", "top", "by")
_NAME = re.compile(r"[^\W\d]\w*")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the line magic ``%archcost``; ``%load_ext archcost`` calls it."""

    def archcost(line: str) -> Result | None:
        """Show what a model costs, or with ``measure`` how long its convolutions take here.

        %archcost model
        %archcost torchvision:resnet50 --input-size 1,3,224,224 --depth 2
        %archcost model.backbone --inputs batch --top 10
        %archcost measure model --input-size 1,3,64,64 --seconds 10
        analysis = %archcost -o model

        MODEL is a variable, an expression that begins with one, or a SPEC such as torchvision:resnet50;
        --inputs is a variable or an expression. -o returns the result in place of showing it. --columns,
        --depth, --sort, --top and --by are those of the command line.
        """
        from IPython.core.error import UsageError

        try:
            args = _parser().parse_args(_words(line))
            result = _result(shell, args)
            if args.o:
                return result
            asked = Asked(**{name: value for name in _VIEW if (value := getattr(args, name)) is not None})
            _show(result, asked)
            return None
        except ArchcostError as error:
            raise UsageError(str(error)) from error

    shell.magics_manager.register_function(archcost, "line")


class _Parser(argparse.ArgumentParser):
    """A parser that raises ArchcostError where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        raise ArchcostError(f"{message}; {' '.join(self.format_usage().split())}")


def _parser() -> _Parser:
    parser = _Parser(
        prog="%archcost", add_help=False, usage="%%archcost [measure] MODEL [options]; see %%archcost?"
    )
    parser.add_argument("command", choices=("analyze", "measure"))
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--inputs")
    parser.add_argument("--input-size", type=_size, action="append")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--columns", type=lambda text: tuple(text.split(",")))
    for name, kind in (("depth", int), ("sort", str), ("top", int), ("by", str)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("-o", action="store_true")
    return parser


def _words(line: str) -> list[str]:
    """The words of the line, a command before them."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ArchcostError(f"{line}: {error}") from error
    named = words[:1] in (["analyze"], ["measure"]) and len(words) > 1
    return words if named else ["analyze", *words]


def _size(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; write it as in 1,3,224,224") from None


def _result(shell: InteractiveShell, args: argparse.Namespace) -> Result:
    from archcost.analysis.analysis import analyze
    from archcost.latency.measure import measure

    model = _value(shell, args.model) if _is_variable(shell, args.model) else args.model
    size = args.input_size[0] if args.input_size and len(args.input_size) == 1 else args.input_size
    given: dict[str, Any] = {"inputs": args.inputs and _value(shell, args.inputs), "input_size": size}
    times = {name: value for name in ("threads", "seconds") if (value := getattr(args, name)) is not None}
    if args.command == "measure":
        return measure(model, **given, **times)
    if times:
        raise ArchcostError(f"--{next(iter(times))} belongs to %archcost measure")
    return analyze(model, **given)


def _is_variable(shell: InteractiveShell, text: str) -> bool:
    """Whether the text begins with a variable; raises ArchcostError where it names no model either."""
    first = _NAME.match(text)
    if ":" in text or "/" in text or text.endswith(".json"):
        return False
    if first is not None and first[0] in shell.user_ns:
        return True
    if "." in text:
        return False  # package.module without an attribute: load says what is missing
    raise ArchcostError(f"there is no variable {text!r}; a SPEC has a colon, as in torchvision:resnet50")


def _value(shell: InteractiveShell, text: str) -> Any:
    try:
        return shell.ev(text)
    except Exception as error:
        raise ArchcostError(f"{text}: {type(error).__name__}: {error}") from error


def _show(result: Result, asked: Asked) -> None:
    """Show a result in the richest form that the front end has: folded, unless rows were asked for."""
    from IPython.display import display

    from archcost.report.html import to_html
    from archcost.report.terminal import plain_text

    document = result.document(asked)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    text, page = plain_text(document, asked, width), to_html(document, asked, folded=asked == Asked())
    display({"text/plain": text, "text/html": page}, raw=True)
