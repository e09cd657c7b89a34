"""archcost field: the receptive field of a layer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from archcost.cli.options import SPEC, Commands, Parser, input_options, inputs, position, report_options
from archcost.cli.output import DONE, FINDINGS, check_writable, write

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis
    from archcost.fields.effective import EffectiveField

__all__ = ["add", "run"]


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    field = commands.add_parser(
        "field", parents=[common], help="the receptive field of a layer: which part of the input it sees"
    )
    field.add_argument("spec", metavar="SPEC", help=SPEC)
    input_options(field)
    field.add_argument(
        "--weights", metavar="FILE", help="a state dict: .pt/.pth (plain tensors only) or .safetensors"
    )
    field.add_argument("--layer", metavar="NAME", help="a module; default: the last spatial feature map")
    field.add_argument(
        "--position",
        type=position,
        metavar="Y,X",
        help="a position of the layer's output; default: its centre",
    )
    field.add_argument(
        "--verify",
        action="store_true",
        help="check the window on the real model, with NaN inside and outside it",
    )
    field.add_argument(
        "--effective",
        action="store_true",
        help="also the effective receptive field (Luo et al. 2016), by gradients",
    )
    field.add_argument("--plot", metavar="FILE", help="draw the window over the input, as .png, .svg or .pdf")
    field.add_argument("--growth", metavar="FILE", help="draw the receptive field over depth")
    report_options(field)
    field.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from archcost.analysis.analysis import analyze
    from archcost.analysis.receptive import LayerField, verify_field
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
    _draw(args, analysis, effective)  # before printing: the reader of the pipe may have gone
    notes = () if args.layer is not None else tuple(field_notes(analysis)[1:])
    write(args, LayerField(analysis.name, analysis.input_text, field, effective, witness, notes))
    return DONE if witness is None or witness.agrees else FINDINGS


def _draw(args: argparse.Namespace, analysis: Analysis, effective: EffectiveField | None) -> None:
    from archcost import plot

    if args.plot:
        plot.window(analysis, layer=args.layer, position=args.position, effective=effective, path=args.plot)
    if args.growth:
        plot.growth(analysis, path=args.growth)
