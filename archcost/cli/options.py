"""Types of arguments and groups of options that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypeVar

from archcost.errors import SpecError

if TYPE_CHECKING:
    from archcost.analysis.analysis import Wanted
    from archcost.trace.inputs import InputSize

__all__ = [
    *("FORMATS", "SPEC", "Commands", "Parser", "batch_options", "count", "days"),
    *("given", "input_options", "inputs", "levels", "names", "parse", "position"),
    *("ratio", "report_options", "rule_names", "size", "size_option", "sizes"),
]

FORMATS = ("table", "markdown", "json", "csv", "html", "latex")
SPEC = "torchvision:NAME, timm:NAME, path/to/file.py:factory_or_class or package.module:attr"


# A SPEC is a source and a name; a choice such as conv1=bottleneck:rank=16 is not.
_A_SPEC = re.compile(r"[^-=:][^=]*:[^=:]+")


class WrongUsage(Exception):
    """The command line cannot be read; holds the parser whose usage belongs to the message."""

    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        super().__init__(message)
        self.parser = parser


class Parser(argparse.ArgumentParser):
    """A parser that raises WrongUsage where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise WrongUsage(self, message)


T = TypeVar("T")
_Shapes: TypeAlias = "dict[str, tuple[int, ...] | _Shapes]"
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def parse(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exits with code 2 where it cannot be read.

    An option with several values would also take a SPEC that follows them (``--rules merge SPEC``): a
    command line that cannot be read is read again as if the SPEC stood first.
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
    """Add ``--input-size`` and ``--input``; `sizes` reads them."""
    parser.add_argument(
        "--input-size",
        action="append",
        type=size,
        metavar="N,C,H,W",
        help="shape of the input, batch included; may be repeated, for several inputs",
    )
    parser.add_argument(
        "--input",
        action="append",
        type=named_size,
        metavar="NAME=N,C,H,W",
        help="shape of the argument NAME, or NAME.KEY for an entry of a dict; may be repeated",
    )


def input_options(parser: argparse.ArgumentParser) -> None:
    """Add `size_option`, ``--dtype`` and ``--device``; `inputs` reads them."""
    size_option(parser)
    parser.add_argument(
        "--dtype",
        help="dtype of the input, such as fp16 or int64, and of the weights if a float; default: the model's",
    )
    parser.add_argument(
        "--device", help="compute the forward pass there, such as cpu; default: meta, nothing computed"
    )


def report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for how a result is shown; `archcost.cli.output.write` reads them."""
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("--columns", type=names, metavar="A,B,...", help="the columns to show")
    parser.add_argument(
        "--depth", type=levels, metavar="N", help="levels of modules to show (0: the total; all)"
    )
    parser.add_argument("--sort", metavar="COLUMN", help="sort by a column, largest first")
    parser.add_argument("--top", type=count, metavar="N", help="only the N largest rows")
    parser.add_argument("--by", metavar="TABLE", help="the table to show, such as operations")
    parser.add_argument(
        "--save", metavar="FILE", help="write the whole result as JSON, for archcost.load_result"
    )


def batch_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--batches`` and ``--batch-size``; `archcost.cli.batches.load_batches` reads the files."""
    parser.add_argument(
        "--batches",
        nargs="+",
        action="extend",
        metavar="FILE.pt",
        help="calibration data: one tensor in each file, unlabelled inputs along its first axis",
    )
    parser.add_argument(
        "--batch-size", type=count, metavar="N", default=32, help="calibration inputs in a batch; default: 32"
    )


def rule_names(args: argparse.Namespace) -> list[str] | None:
    """The rules that ``--rules A B,C`` names, each once; raises SpecError for an unknown name."""
    if args.rules is None:
        return None
    from archcost.rewriting import get

    found = list(dict.fromkeys(name for given in args.rules for name in given))
    for name in found:
        get(name)
    return found


def ratio(text: str) -> float:
    """A share of the MACs: above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share of the MACs: above 0, at most 1")
    return value


def count(text: str) -> int:
    """A whole number, not negative."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; give a whole number of at least 0")
    return number


def levels(text: str) -> int | str:
    """A number of levels, or ``all``."""
    return text if text == "all" else count(text)


def days(text: str) -> float:
    """A number of days, not negative."""
    number = float(text)
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days; give one of at least 0")
    return number


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def position(text: str) -> tuple[int, ...]:
    """An index for each spatial axis: ``7,7`` or ``7x7``."""
    try:
        return tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a position; write it as in 7,7") from None


def size(text: str) -> tuple[int, ...]:
    """A shape: ``1,3,224,224`` or ``1x3x224x224``."""
    try:
        shape = tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; write it as in 1,3,224,224") from None
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape: sizes are whole numbers, at least 1")
    return shape


def named_size(text: str) -> tuple[list[str], tuple[int, ...]]:
    """A name, in its parts, and a shape: ``image=1,3,224,224``."""
    name, equals, shape = text.partition("=")
    path = name.split(".")
    if not equals or not all(path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SHAPE; write it as in image=1,3,224,224")
    return path, size(shape)


def sizes(args: argparse.Namespace) -> InputSize | None:
    """Shapes given by ``--input-size`` and ``--input``: none, one, a list of them, or a dict by name."""
    if args.input:
        if args.input_size:
            raise SpecError("give either --input-size, by position, or --input, by name")
        return _by_name(args.input)
    given: list[tuple[int, ...]] | None = args.input_size
    return given[0] if given and len(given) == 1 else given


def _by_name(given: Sequence[tuple[list[str], tuple[int, ...]]]) -> _Shapes:
    """A dict of shapes, nested as the dots in the names say."""
    found: _Shapes = {}
    for path, shape in given:
        inner: _Shapes | tuple[int, ...] = found
        for key in path[:-1]:
            if isinstance(inner, dict):
                inner = inner.setdefault(key, {})
        if not isinstance(inner, dict) or path[-1] in inner:
            raise SpecError(f"--input: {'.'.join(path)} is given twice")
        inner[path[-1]] = shape
    return found


def inputs(args: argparse.Namespace) -> Wanted:
    """The values of `input_options`, as keyword arguments of `archcost.analyze`."""
    options: Wanted = {"input_size": sizes(args)}
    if args.dtype:
        options["dtype"] = args.dtype
    if args.device:
        options["device"] = args.device
    return options


def given(**options: T | None) -> dict[str, T]:
    """The options that were given; the defaults of the API hold for the others."""
    return {name: value for name, value in options.items() if value is not None}
