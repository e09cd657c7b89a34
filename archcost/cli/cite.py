"""archcost cite: how to cite archcost, and where its definitions come from."""

from __future__ import annotations

import argparse

from archcost.cli.options import Commands, Parser
from archcost.cli.output import DONE, emit

__all__ = ["add", "run"]

_OWN = """@software{{archcost,
  author  = {{{{The archcost authors}}}},
  title   = {{{{archcost}}: {title}}},
  version = {{{version}}},
  note    = {{Counted with PyTorch {torch}}},
}}
"""
# The definition of the receptive field that archcost computes.
_FIELDS = """
@article{araujo2019receptive,
  author  = {Araujo, Andr{\\'e} and Norris, Wade and Sim, Jack},
  title   = {Computing Receptive Fields of Convolutional Neural Networks},
  journal = {Distill},
  year    = {2019},
  doi     = {10.23915/distill.00021},
}
"""


def add(commands: Commands, common: Parser) -> None:
    """Add the command and its options to the parser."""
    cite = commands.add_parser("cite", parents=[common], help="BibTeX for a paper that uses archcost")
    cite.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from importlib.metadata import metadata, version

    title = metadata("archcost")["Summary"].partition(",")[0]
    emit(args, _OWN.format(title=title, version=version("archcost"), torch=version("torch")) + _FIELDS)
    return DONE
