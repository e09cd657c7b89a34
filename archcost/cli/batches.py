"""Calibration data from files: tensors only, code in a file is never run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archcost.errors import SpecError

if TYPE_CHECKING:
    import torch

__all__ = ["load_batches"]


def load_batches(files: Sequence[str], size: int) -> list[torch.Tensor]:
    """The tensors of all files, split along their first axis into batches.

    Args:
        files: each holds one tensor, inputs along its first axis.
        size: inputs in a batch; the last batch of a file may be smaller.

    Raises:
        SpecError: a file does not exist, or holds no tensor or an empty one.
    """
    import torch

    from archcost.models.weights import read_tensors

    if size < 1:
        raise SpecError(f"--batch-size is {size}; a batch holds at least one input")
    batches: list[torch.Tensor] = []
    for file in files:
        if not Path(file).is_file():
            raise SpecError(f"--batches: there is no file {file!r}")
        found = read_tensors(Path(file), "--batches")
        if not isinstance(found, torch.Tensor) or found.dim() < 1 or not len(found):
            said = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise SpecError(
                f"--batches: {file} holds {said}; give a file with one tensor, inputs along its first axis, "
                f"as torch.save writes it"
            )
        batches += torch.split(found, size)
    return batches
