"""What the commands share: kinds of arguments, and groups of options."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from archcost.errors import SpecError

__all__ = [
    *("FORMATS", "SPEC", "Parser", "batch_options", "count", "days", "given", "input_options", "inputs"),
    *("names", "parse", "position", "ratio", "report_options", "rule_names", "size", "size_option", "sizes"),
]

FORMATS = ("table", "markdown", "json", "csv", "html")
SPEC = "torchvision:NAME, timm:NAME, path/to/file.py:factory_or_class or package.module:attr"


# A SPEC: a source and a name; a choice such as conv1=bottleneck:rank=16 is none.
_A_SPEC = re.compile(r"[^-=:][^=]*:[^=:]+")


class WrongUsage(Exception):
    """The command line cannot be read; knows the parser that says so."""

    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        super().__init__(message)
        self.parser = parser


class Parser(argparse.ArgumentParser):
    """A parser that raises WrongUsage where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise WrongUsage(self, message)


def parse(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exits with code 2 where that cannot be read.

    An option that takes several values also takes a SPEC behind them (``--rules merge SPEC``): what cannot
    be read otherwise is read as if the SPEC stood first.
    """
    try:
        return parser.parse_args(argv)
    except WrongUsage as wrong:
        for at in range(len(argv) - 1, 0, -1):
            if _A_SPEC.fullmatch(argv[at]):
                with contextlib.suppress(WrongUsage):
                    return parser.parse_args([argv[0], argv[at], *argv[1:at], *argv[at + 1 :]])
        argparse.ArgumentParser.error(wrong.parser, str(wrong))


def size_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-size",
        action="append",
        type=size,
        metavar="N,C,H,W",
        help="shape of the input, batch included; repeat it for several inputs",
    )
    parser.add_argument(
        "--input",
        action="append",
        type=named_size,
        metavar="NAME=N,C,H,W",
        help="shape of the argument of that name; NAME.KEY=... of an entry of a dict; may be repeated",
    )


def input_options(parser: argparse.ArgumentParser) -> None:
    size_option(parser)
    parser.add_argument(
        "--dtype",
        help="of the input, as in fp16 or int64, and of the weights if a float; default: the model's",
    )
    parser.add_argument(
        "--device", help="run the pass for real there, as in cpu; default: meta, nothing computed"
    )


def report_options(parser: argparse.ArgumentParser) -> None:
    """How a result is shown; `archcost.cli.output.write` reads them."""
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("--columns", type=names, metavar="A,B,...", help="the columns to show")
    parser.add_argument("--depth", type=count, metavar="N", help="levels of modules to show (0: the total)")
    parser.add_argument("--sort", metavar="COLUMN", help="sort by a column, the largest first")
    parser.add_argument("--top", type=count, metavar="N", help="only the N largest")
    parser.add_argument("--by", metavar="TABLE", help="another table of the result, as in operations")
    parser.add_argument("--save", metavar="FILE", help="all of it as JSON, for archcost.load_result")


def batch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batches",
        nargs="+",
        action="extend",
        metavar="FILE.pt",
        help="unlabelled inputs: a tensor a file, inputs along its first axis",
    )
    parser.add_argument(
        "--batch-size", type=count, metavar="N", default=32, help="inputs at a time; default: 32"
    )


def rule_names(args: argparse.Namespace) -> list[str] | None:
    """What ``--rules A B,C`` means; raises SpecError for a rule that is not there, before any work."""
    if args.rules is None:
        return None
    from archcost.rewriting import get

    found = list(dict.fromkeys(name for given in args.rules for name in given))
    for name in found:
        get(name)
    return found


def ratio(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share of the MACs, above 0 and at most 1")
    return value


def count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def days(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of days")
    return number


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def position(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no position; give it as in 7,7") from None


def size(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; give it as in 1,3,224,224") from None
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: every size must be positive")
    return shape


def named_size(text: str) -> tuple[list[str], tuple[int, ...]]:
    name, equals, shape = text.partition("=")
    path = name.split(".")
    if not equals or not all(path):
        raise argparse.ArgumentTypeError(f"{text!r} names no input; give it as in image=1,3,224,224")
    return path, size(shape)


def sizes(args: argparse.Namespace) -> Any:
    """Shapes given by ``--input-size`` and ``--input``: none, one, a list of them, or a dict by name."""
    if args.input:
        if args.input_size:
            raise SpecError("give either --input-size, by position, or --input, by name")
        return _by_name(args.input)
    given = args.input_size
    return given[0] if given and len(given) == 1 else given


def _by_name(given: Sequence[tuple[list[str], tuple[int, ...]]]) -> dict[str, Any]:
    """Dicts in dicts, as the names say."""
    found: dict[str, Any] = {}
    for path, shape in given:
        inner = found
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                break
        if not isinstance(inner, dict) or path[-1] in inner:
            raise SpecError(f"--input: {'.'.join(path)} is given twice")
        inner[path[-1]] = shape
    return found


def inputs(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `input_options`, as `archcost.analyze` takes them."""
    options: dict[str, Any] = {"input_size": sizes(args)}
    if args.dtype:
        options["dtype"] = args.dtype
    if args.device:
        options["device"] = args.device
    return options


def given(**options: Any) -> dict[str, Any]:
    """Only what was said; the API's own defaults stand for the rest."""
    return {name: value for name, value in options.items() if value is not None}
