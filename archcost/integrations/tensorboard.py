"""TensorBoard: an Analysis as text, scalars and a picture."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from archcost.errors import SpecError
from archcost.plot import growth

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from archcost.analysis.analysis import Analysis

__all__ = ["add_analysis"]

_SCALARS = ("params", "macs", "peak_memory_bytes", "kept_for_backward_bytes")


def add_analysis(writer: SummaryWriter, analysis: Analysis, tag: str = "archcost", step: int = 0) -> None:
    """Write an Analysis for TensorBoard.

    The table is the text ``tag``. Parameters, MACs and memory are scalars, ``tag/params`` and so on, which
    draw a line where a model changes from step to step (pruning). The receptive field over depth is the
    picture ``tag/receptive_field`` of a model that has spatial maps.

    Args:
        writer: a ``SummaryWriter`` of ``torch.utils.tensorboard``.
        analysis: what `archcost.analyze` returned.
        tag: the name in TensorBoard.
        step: the global step.

    Raises:
        ArchcostError: matplotlib is not installed (``pip install 'archcost[plots]'``).
    """
    with contextlib.suppress(SpecError):  # no layer with a spatial map
        writer.add_figure(f"{tag}/receptive_field", growth(analysis), step)
    writer.add_text(tag, analysis.to_markdown(), step)
    numbers = analysis.flat()
    for name in _SCALARS:
        if name in numbers:
            writer.add_scalar(f"{tag}/{name}", numbers[name], step)
