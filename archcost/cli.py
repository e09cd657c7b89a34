"""The command line: parses, calls the public API, prints. Results on stdout, all else on stderr.

Exit codes: 0 done, 1 findings (a crosscheck or a zoo model disagrees), 2 usage or load error, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archcost.errors import ArchcostError, SpecError

DONE, FINDINGS, FAILED = 0, 1, 2
FORMATS = ("table", "markdown", "json", "csv", "html")
TASKS = ("classification", "segmentation", "video", "optical_flow", "quantization", "detection")
_SPEC = "torchvision:NAME, timm:NAME, path/to/file.py:factory_or_class or package.module:attr"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.version:
        from archcost import __version__

        print(f"archcost {__version__}")
        return DONE
    if args.command is None:
        parser.print_help(sys.stderr)
        return FAILED
    try:
        _check_output(args)
        return int(args.run(args))
    except ArchcostError as error:
        if args.debug:
            raise
        print(f"archcost: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("archcost: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone (| head): nothing is left to say, and flushing at exit must not complain.
        sys.stderr.close()
        return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="archcost",
        description="What a PyTorch model costs: parameters, MACs, memory, layer by layer. Nothing is "
        "computed and nothing is downloaded.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("-o", "--output", metavar="FILE", help="write to FILE, - for stdout")
    common.add_argument("--force", action="store_true", help="overwrite FILE")

    analyze = commands.add_parser("analyze", parents=[common], help="what every layer of a model costs")
    analyze.add_argument("spec", metavar="SPEC", help=_SPEC)
    _input_options(analyze)
    _table_options(analyze)
    analyze.add_argument(
        "--weights", metavar="FILE", help="a state dict: .pt/.pth (plain tensors only) or .safetensors"
    )
    analyze.add_argument("--operations", action="store_true", help="one row an operation, not a module")
    analyze.add_argument(
        "--check", action="store_true", help="hold the counts against fvcore and FlopCounterMode"
    )
    analyze.set_defaults(run=_analyze)

    compare = commands.add_parser("compare", parents=[common], help="two models side by side")
    compare.add_argument("spec", metavar="SPEC_A", help=_SPEC)
    compare.add_argument("other", metavar="SPEC_B")
    _input_options(compare)
    compare.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    compare.add_argument(
        "--depth", type=_count, metavar="N", help="levels of modules to show (0: the totals)"
    )
    compare.set_defaults(run=_compare)

    field = commands.add_parser("field", parents=[common], help="which part of the input a layer sees")
    field.add_argument("spec", metavar="SPEC", help=_SPEC)
    _input_options(field)
    field.add_argument(
        "--weights", metavar="FILE", help="a state dict: .pt/.pth (plain tensors only) or .safetensors"
    )
    field.add_argument("--layer", metavar="NAME", help="a module; default: the last spatial feature map")
    field.add_argument(
        "--position", type=_position, metavar="Y,X", help="of the layer's output; default: its centre"
    )
    field.add_argument("--verify", action="store_true", help="plant NaN in the real model and see it arrive")
    field.add_argument("--effective", action="store_true", help="the effective field as well (Luo et al.)")
    field.add_argument("--plot", metavar="FILE", help="draw the window over the input, as .png, .svg or .pdf")
    field.add_argument("--growth", metavar="FILE", help="draw how the field grows over depth")
    field.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    field.set_defaults(run=_field)

    _measure_command(commands, common)

    paths = commands.add_parser("paths", parents=[common], help="the ways to execute a convolution")
    paths.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    paths.set_defaults(run=_paths)

    _store_commands(commands, common)

    zoo = commands.add_parser("zoo", parents=[common], help="torchvision's models against what it publishes")
    zoo.add_argument(
        "pattern", metavar="PATTERN", nargs="?", help="names, as in 'resnet*'; default: all classifiers"
    )
    zoo.add_argument("--task", action="append", choices=TASKS, help="only these; may be repeated")
    zoo.add_argument(
        "--every-weight", action="store_true", help="each published set of weights, at its own size"
    )
    zoo.set_defaults(run=_zoo)
    return parser


def _measure_command(commands: Any, common: argparse.ArgumentParser) -> None:
    measure = commands.add_parser(
        "measure", parents=[common], help="how long each convolution takes here, and on which path least"
    )
    measure.add_argument("spec", metavar="SPEC", help=_SPEC)
    _size_option(measure)
    measure.add_argument("--batch", type=_count, metavar="N", help="images; default: as the input has")
    measure.add_argument("--weights", metavar="FILE", help="a state dict; errors depend on the weights")
    measure.add_argument(
        "--threads", type=_count, metavar="N", help="of PyTorch; default: as many as it takes"
    )
    measure.add_argument(
        "--paths", type=_names, metavar="A,B,...", help="these paths, or all; default: those that may be fast"
    )
    measure.add_argument("--seconds", type=float, metavar="S", help="about how long it may take; default: 60")
    measure.add_argument(
        "--tolerance", type=float, metavar="T", help="the largest error of a path; default: 1e-4"
    )
    measure.add_argument("--store", metavar="STORE", help="where times are kept; :memory: keeps none")
    measure.add_argument("--again", action="store_true", help="measure anew what the store has")
    measure.add_argument("--cold", action="store_true", help="paths get inputs from beyond the caches")
    formats = ("text", "markdown", "json", "csv")
    measure.add_argument("--format", choices=formats, default="text", help="default: text")
    measure.add_argument("--columns", type=_names, metavar="A,B,...", help="the columns to show")
    measure.set_defaults(run=_measure)


def _store_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    store = commands.add_parser("store", help="what was measured on this and other machines")
    actions = store.add_subparsers(dest="action", metavar="ACTION", required=True)
    place = argparse.ArgumentParser(add_help=False, parents=[common])
    place.add_argument(
        "--store", metavar="STORE", help="the file; default: ARCHCOST_STORE, or one in the cache folder"
    )
    listed = actions.add_parser("list", parents=[place], help="every measurement, by device")
    listed.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    actions.add_parser("export", parents=[place], help="all of it as lines of JSON")
    imported = actions.add_parser("import", parents=[place], help="take in what was exported")
    imported.add_argument("file", metavar="FILE")
    prune = actions.add_parser("prune", parents=[place], help="remove what is old or of other devices")
    prune.add_argument("--older-than", type=_days, metavar="DAYS", help="measured longer ago than this")
    prune.add_argument(
        "--other-devices", action="store_true", help="measured on another device or with other software"
    )
    actions.add_parser("path", parents=[place], help="where the store is")
    store.set_defaults(run=_store)


def _size_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-size",
        action="append",
        type=_size,
        metavar="N,C,H,W",
        help="shape of the input, batch included; repeat it for several inputs",
    )


def _input_options(parser: argparse.ArgumentParser) -> None:
    _size_option(parser)
    parser.add_argument("--dtype", help="of the input, as in float16 or int64; default: the model's")
    parser.add_argument(
        "--device", help="run the pass for real there, as in cpu; default: meta, nothing computed"
    )


def _table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument(
        "--depth", type=_count, metavar="N", help="levels of modules to show; default 3 in a table"
    )
    parser.add_argument("--top", type=_count, metavar="N", help="only the N costliest layers")
    parser.add_argument("--sort", metavar="COLUMN", help="sort by a column, as in peak_memory_bytes")
    parser.add_argument("--columns", type=_names, metavar="A,B,...", help="the columns to show")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _days(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of days")
    return number


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _position(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no position; give it as in 7,7") from None


def _size(text: str) -> tuple[int, ...]:
    try:
        size = tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; give it as in 1,3,224,224") from None
    if not size or min(size) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: every size must be positive")
    return size


def _sizes(args: argparse.Namespace) -> Any:
    sizes = args.input_size
    return sizes[0] if sizes and len(sizes) == 1 else sizes


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {"input_size": _sizes(args)}
    if args.dtype:
        options["dtype"] = args.dtype
    if args.device:
        options["device"] = args.device
    return options


def _given(**options: Any) -> dict[str, Any]:
    """Only what was said; the API's own defaults stand for the rest."""
    return {name: value for name, value in options.items() if value is not None}


def _analyze(args: argparse.Namespace) -> int:
    if args.check:
        return _check(args)
    if args.operations and args.format in ("table", "html"):
        raise SpecError("--operations needs --format csv, markdown or json")
    from archcost.analysis import analyze

    analysis = analyze(args.spec, weights=args.weights, **_inputs(args))
    options = _given(depth=args.depth, top=args.top, sort=args.sort, columns=args.columns)
    if args.operations:
        options["by"] = "operations"
    elif args.format == "csv" and (args.top is not None or args.sort):
        options["by"] = "layers"
    _write(args, analysis, options)
    return DONE


def _check(args: argparse.Namespace) -> int:
    from archcost.witnesses import crosscheck

    table = ("device", "depth", "top", "sort", "columns", "operations")
    unused = [name for name in table if getattr(args, name)] + ["format"] * (args.format != "table")
    if unused:
        raise SpecError(f"--check prints its own lines; leave --{' and --'.join(unused)} out")
    result = crosscheck(args.spec, weights=args.weights, **_inputs(args))
    _emit(args, f"{result}\n")
    return DONE if result.agrees else FINDINGS


def _field(args: argparse.Namespace) -> int:
    from archcost.analysis import analyze
    from archcost.receptive import verify_field

    for path in filter(None, (args.plot, args.growth)):
        from archcost.report.pictures.canvas import check_path

        check_path(path)
        _check_writable(path, args.force)
    analysis = analyze(args.spec, weights=args.weights, **_inputs(args))
    field = analysis.fields.select(args.layer, args.position)
    witness = verify_field(analysis, field) if args.verify else None
    effective = None
    if args.effective:
        from archcost.effective import effective_field

        effective = effective_field(analysis, layer=args.layer, position=args.position)
    if args.format == "json":
        from archcost.report.records import dump, field_record

        record = {"model": analysis.name, "input": analysis.input_text, **field_record(field)}
        if witness is not None:
            record["verified"] = witness.agrees
        if effective is not None:
            record["effective"] = {"side": effective.side, "share": effective.share}
        _emit(args, dump(record, 2))
    else:
        said = [f"{analysis.name}, input {analysis.input_text}", str(field)]
        said += [str(more) for more in (effective, witness) if more is not None]
        if args.layer is None:
            from archcost.report.notes import field_notes

            said += [f"{what}: {text}" for what, text in field_notes(analysis)[1:]]
        _emit(args, "\n".join(said) + "\n")
    _draw(args, analysis, effective)
    return DONE if witness is None or witness.agrees else FINDINGS


def _draw(args: argparse.Namespace, analysis: Any, effective: Any) -> None:
    if args.plot:
        from archcost.report.pictures.window import plot_window

        plot_window(analysis, layer=args.layer, position=args.position, effective=effective, path=args.plot)
    if args.growth:
        from archcost.report.pictures.growth import plot_growth

        plot_growth(analysis, path=args.growth)


def _compare(args: argparse.Namespace) -> int:
    from archcost.comparison import compare

    comparison = compare(args.spec, args.other, **_inputs(args))
    _write(args, comparison, _given(depth=args.depth))
    return DONE


def _measure(args: argparse.Namespace) -> int:
    from archcost.analysis import analyze
    from archcost.measured import MeasuringInterrupted

    analysis = analyze(args.spec, weights=args.weights, input_size=_sizes(args))
    paths = "all" if args.paths == ["all"] else args.paths
    options = _given(
        paths=paths, threads=args.threads, batch=args.batch, seconds=args.seconds, tolerance=args.tolerance
    )
    try:
        found = analysis.measure(store=args.store, again=args.again, cold=args.cold, **options)
    except MeasuringInterrupted as stopped:
        _write_measured(args, stopped.found)
        print("archcost: interrupted; what had been measured by then is shown, and kept", file=sys.stderr)
        return 130
    _write_measured(args, found)
    return DONE


def _write_measured(args: argparse.Namespace, found: Any) -> None:
    options = _given(columns=args.columns)
    if args.format == "text" and args.output in (None, "-"):
        found.table(**options)
    elif args.format == "json":
        _emit(args, found.to_json() + "\n")
    else:
        _emit(args, getattr(found, f"to_{args.format}")(**options).rstrip("\n") + "\n")


def _paths(args: argparse.Namespace) -> int:
    from archcost.report.paths import paths_record, paths_text

    if args.format == "json":
        from archcost.report.records import dump

        _emit(args, dump(paths_record(), 2))
    else:
        _emit(args, paths_text())
    return DONE


def _store(args: argparse.Namespace) -> int:
    import warnings

    from archcost.latency.store import Store

    with warnings.catch_warnings(record=True) as warned, Store(args.store) as store:
        warnings.simplefilter("always")
        try:
            return _STORE_ACTIONS[args.action](args, store)
        finally:
            for warning in warned:
                print(f"archcost: {warning.message}", file=sys.stderr)


def _store_list(args: argparse.Namespace, store: Any) -> int:
    from archcost.report.store import store_record, store_text

    if args.format == "json":
        from archcost.report.records import dump

        _emit(args, dump(store_record(store), 2))
    else:
        _emit(args, store_text(store))
    return DONE


def _store_export(args: argparse.Namespace, store: Any) -> int:
    _emit(args, "".join(f"{line}\n" for line in store.lines()))
    return DONE


def _store_import(args: argparse.Namespace, store: Any) -> int:
    count = store.import_(args.file)
    print(f"{count} measurement{'s' * (count != 1)} read", file=sys.stderr)
    return DONE


def _store_prune(args: argparse.Namespace, store: Any) -> int:
    from datetime import timedelta

    age = None if args.older_than is None else timedelta(days=args.older_than)
    count = store.prune(older_than=age, other_devices=args.other_devices)
    print(f"{count} measurement{'s' * (count != 1)} removed, {len(store)} kept", file=sys.stderr)
    return DONE


def _store_path(args: argparse.Namespace, store: Any) -> int:
    _emit(args, f"{store.path}\n")
    return DONE


_STORE_ACTIONS = {
    "list": _store_list,
    "export": _store_export,
    "import": _store_import,
    "prune": _store_prune,
    "path": _store_path,
}


def _write(args: argparse.Namespace, result: Any, options: dict[str, Any]) -> None:
    if args.format == "table" and args.output in (None, "-"):
        result.table(**options)
        return
    if args.format == "table":
        text = result.to_text(**options)
    elif args.format == "json":
        # JSON is whole: what a program reads is not cut to what a person wants to see.
        text = result.to_json(operations=True) if options.get("by") == "operations" else result.to_json()
    else:
        text = getattr(result, f"to_{args.format}")(**options)
    _emit(args, text if text.endswith("\n") else text + "\n")
    for note in getattr(result, "notes", ()) if args.format == "csv" else ():
        print(f"note: {note}", file=sys.stderr)


def _check_output(args: argparse.Namespace) -> None:
    if args.output != "-":
        _check_writable(args.output, args.force)


def _check_writable(name: str | None, force: bool) -> None:
    """Before the work: the file can be written, and is not one that somebody needs."""
    if name is None:
        return
    path = Path(name)
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise SpecError(f"{name} is a folder, or its folder is not there")
    if path.exists() and not force:
        raise SpecError(f"{name} exists; --force overwrites it")


def _emit(args: argparse.Namespace, text: str) -> None:
    if args.output in (None, "-"):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(args.output)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot write {args.output}: {error.strerror}") from error


def _zoo(args: argparse.Namespace) -> int:
    from archcost.models import count_entry, zoo_entries
    from archcost.report.zoo import header, line
    from archcost.trace.progress import Progress

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
    summary = f"{len(rows)} models, {len(rows) - len(wrong)} as published"
    if not live:
        _emit(args, "\n".join(lines) + "\n")
    print(summary + (f"; not: {', '.join(wrong)}" if wrong else ""), file=sys.stderr)
    return FINDINGS if wrong else DONE


if __name__ == "__main__":
    sys.exit(main())
