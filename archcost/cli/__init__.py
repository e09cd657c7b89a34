"""The command line: parses, calls the public API, prints. Results on stdout, all else on stderr.

Of a model whose forward fails, what ran until then is printed as well.

Exit codes: 0 done; 1 findings (a cross-check or a zoo model disagrees, a receptive field is contradicted, a
limit of diff breaks, a check has findings at its level, a rewrite found nothing to do); 2 usage or load
error; 130 Ctrl-C. Each command is one file with ``add(commands, common)`` and ``run(args)``.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from archcost.cli import (
    accelerate,
    analyze,
    check,
    cite,
    compare,
    diff,
    field,
    footprint,
    largest,
    measure,
    optimize,
    paths,
    propose,
    report,
    rewrite,
    spectrum,
    store,
    sweep,
    train,
    zoo,
)
from archcost.cli.options import Parser, parse
from archcost.cli.output import DONE, FAILED, INTERRUPTED, check_output
from archcost.cli.wording import as_options, options_of
from archcost.errors import ArchcostError

__all__ = ["main"]

# In the order of the help.
COMMANDS = (
    *(analyze, sweep, train, largest, footprint, compare, diff, check, field, measure),
    *(propose, rewrite, optimize, accelerate, report, spectrum, paths, store, zoo, cite),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    args = parse(parser, sys.argv[1:] if argv is None else argv)
    if args.version:
        from archcost import __version__

        print(f"archcost {__version__}")
        return DONE
    if args.command is None:
        parser.print_help(sys.stderr)
        return FAILED
    try:
        with _interrupts_kept():
            check_output(args)
            return int(args.run(args))
    except ArchcostError as error:
        if args.debug:
            raise
        of_people = (getattr(args, "format", ""), args.output) == ("table", None)
        if of_people and error.partial is not None and error.partial.operations:
            error.partial.table()
            sys.stdout.flush()
        options = options_of(parser, args.command, getattr(args, "action", None))
        print(f"archcost: {as_options(' '.join(str(error).split()), options)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("archcost: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the pipe has gone (| head): no message, and flushing at exit must not raise.
        sys.stderr.close()
        return DONE


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Raise KeyboardInterrupt after Ctrl-C, also where other code turned it into another exception.

    A package interrupted during its import may swallow the KeyboardInterrupt, and fail at its next import
    ("cannot load module more than once per process").
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a handler of the caller's own stays
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)


def _parser() -> Parser:
    parser = Parser(
        prog="archcost",
        description="What a PyTorch model costs: parameters, MACs, memory, layer by layer; how long it takes "
        "here; the same model faster, as one program; cheaper replacements for its convolutions. Nothing is "
        "downloaded.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    common.add_argument("-o", "--output", metavar="FILE", help="write the result to FILE; - is stdout")
    common.add_argument("--force", action="store_true", help="overwrite files that exist")
    for command in COMMANDS:
        command.add(commands, common)
    return parser
