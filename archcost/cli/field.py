"""archcost field: which part of the input a layer sees."""

from __future__ import annotations

import argparse
from typing import Any

from archcost.cli.options import SPEC, input_options, inputs, position, report_options
from archcost.cli.output import DONE, FINDINGS, check_writable, write

__all__ = ["add", "run"]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    field = commands.add_parser("field", parents=[common], help="which part of the input a layer sees")
    field.add_argument("spec", metavar="SPEC", help=SPEC)
    input_options(field)
    field.add_argument(
        "--weights", metavar="FILE", help="a state dict: .pt/.pth (plain tensors only) or .safetensors"
    )
    field.add_argument("--layer", metavar="NAME", help="a module; default: the last spatial feature map")
    field.add_argument(
        "--position", type=position, metavar="Y,X", help="of the layer's output; default: its centre"
    )
    field.add_argument("--verify", action="store_true", help="plant NaN in the real model and see it arrive")
    field.add_argument("--effective", action="store_true", help="the effective field as well (Luo et al.)")
    field.add_argument("--plot", metavar="FILE", help="draw the window over the input, as .png, .svg or .pdf")
    field.add_argument("--growth", metavar="FILE", help="draw how the field grows over depth")
    report_options(field)
    field.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit code."""
    from archcost.analysis.analysis import analyze
    from archcost.analysis.receptive import FieldOfLayer, verify_field
    from archcost.analysis.reports.notes import field_notes

    for path in filter(None, (args.plot, args.growth)):
        from archcost.plot.drawing.canvas import check_path

        check_path(path)
        check_writable(path, args.force)
    analysis = analyze(args.spec, weights=args.weights, **inputs(args))
    field = analysis.fields.select(args.layer, args.position)
    witness = verify_field(analysis, field) if args.verify else None
    effective = None
    if args.effective:
        from archcost.analysis.effective import effective_field

        effective = effective_field(analysis, layer=args.layer, position=args.position)
    _draw(args, analysis, effective)  # first: whoever reads what is printed may have gone
    notes = () if args.layer is not None else tuple(field_notes(analysis)[1:])
    write(args, FieldOfLayer(analysis.name, analysis.input_text, field, effective, witness, notes))
    return DONE if witness is None or witness.agrees else FINDINGS


def _draw(args: argparse.Namespace, analysis: Any, effective: Any) -> None:
    from archcost import plot

    if args.plot:
        plot.window(analysis, layer=args.layer, position=args.position, effective=effective, path=args.plot)
    if args.growth:
        plot.growth(analysis, path=args.growth)
