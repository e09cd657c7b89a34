"""Calibration data in pieces: what is fitted to, and what is held out to judge the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from archcost.errors import InputError
from archcost.trace.call import Call, Inputs

__all__ = ["Data", "data_of"]

_PIECES = 8
"""At least so many pieces, where a batch can be split."""
_MOST = 64
"""Inputs of a piece, at most."""


@dataclass(frozen=True)
class Data:
    """Unlabelled inputs in pieces; every fourth is held out."""

    fitted: tuple[Inputs, ...]
    held_out: tuple[Inputs, ...]
    """Pieces that nothing is fitted to; the fitted ones where there are too few."""
    apart: bool
    """Whether the held-out pieces are others than those fitted to."""

    @property
    def inputs(self) -> int:
        """Number of inputs, held out ones included."""
        return sum(map(_length, self.fitted + self.held_out * self.apart))


def data_of(batches: Iterable[Inputs] | torch.Tensor) -> Data:
    """Batches split into pieces.

    A tensor is one batch. Batches of a single tensor are split along its first axis; others stay whole.

    Raises:
        InputError: there are no batches.
    """
    given = [batches] if isinstance(batches, torch.Tensor) else list(batches)
    if not given:
        raise InputError("batches: there are none")
    pieces: list[Inputs] = []
    per = max(1, -(-_PIECES // len(given)))
    for batch in given:
        if isinstance(batch, torch.Tensor) and batch.dim() > 1:
            pieces += torch.split(batch, max(1, min(_MOST, -(-len(batch) // per))))
        else:
            pieces.append(batch)
    apart = len(pieces) >= 4
    held = tuple(pieces[3::4]) if apart else tuple(pieces)
    fitted = tuple(one for at, one in enumerate(pieces) if at % 4 != 3) if apart else tuple(pieces)
    return Data(fitted, held, apart)


def _length(piece: Inputs) -> int:
    tensors = Call.of(piece).tensors
    return len(tensors[0]) if tensors and tensors[0].dim() else 1


def limited(pieces: Sequence[Inputs], most: int) -> tuple[Inputs, ...]:
    """The first pieces with at least ``most`` inputs, the last cut where it is a tensor."""
    found: list[Inputs] = []
    left = most
    for piece in pieces:
        if left <= 0:
            break
        length = _length(piece)
        found.append(piece[:left] if isinstance(piece, torch.Tensor) and length > left else piece)
        left -= length
    return tuple(found)
