"""Calibration data in pieces: what is fitted to, and what is held out to judge the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch

from archcost.errors import InputError
from archcost.trace.call import Call, Inputs
from archcost.weights.features import listed

__all__ = ["Data", "blendable", "data_of", "length", "limited"]

_EACH = 4
_PIECES = 8
"""At least so many pieces, where a batch can be split."""
_BLEND = 0.2
_MOST = 64
"""Inputs of a piece, at most."""


@dataclass(frozen=True)
class Data:
    """Unlabelled inputs in pieces; every fourth is held out."""

    pieces: tuple[Inputs, ...]
    held: int = _EACH - 1
    """The first piece that is held out."""

    @property
    def apart(self) -> bool:
        """Whether the held-out pieces are others than those fitted to: all are both where there are few."""
        return len(self.pieces) >= _EACH

    @property
    def fitted(self) -> tuple[Inputs, ...]:
        chosen = (one for at, one in enumerate(self.pieces) if at % _EACH != self.held)
        return tuple(chosen) if self.apart else self.pieces

    @property
    def held_out(self) -> tuple[Inputs, ...]:
        """Pieces that nothing is fitted to."""
        return self.pieces[self.held :: _EACH] if self.apart else self.pieces

    @property
    def blended(self) -> tuple[Inputs, ...]:
        """As many pieces as are held out, of those fitted to, each input with a fifth of another one.

        They are harder than those that a task has most of, and show where a few hundred inputs do not what
        others will lose. None where inputs are no single tensor of real numbers.
        """
        chosen = self.fitted[:: _EACH - 1] if self.apart else ()
        return tuple(torch.lerp(one, one.roll(1, 0), _BLEND) for one in chosen if blendable(one))

    @property
    def turned(self) -> tuple[Data, ...]:
        """The same pieces with each other quarter held out."""
        others = [at for at in range(_EACH) if at != self.held] if self.apart else []
        return tuple(replace(self, held=at) for at in others)

    @property
    def inputs(self) -> int:
        """Number of inputs, held out ones included."""
        return sum(map(length, self.pieces))


def data_of(batches: Iterable[Inputs] | torch.Tensor) -> Data:
    """Batches split into pieces.

    A tensor is one batch. Batches of a single tensor are split along its first axis; others stay whole.

    Raises:
        InputError: there are no batches.
    """
    given = listed(batches)
    if not given:
        raise InputError("batches: there are none")
    pieces: list[Inputs] = []
    per = max(1, -(-_PIECES // len(given)))
    for batch in given:
        if isinstance(batch, torch.Tensor) and batch.dim() > 1:
            pieces += torch.split(batch, max(1, min(_MOST, -(-len(batch) // per))))
        else:
            pieces.append(batch)
    return Data(tuple(pieces))


def blendable(piece: Inputs) -> TypeGuard[torch.Tensor]:
    """Whether a piece is a tensor of several inputs, of real numbers."""
    return isinstance(piece, torch.Tensor) and piece.is_floating_point() and piece.dim() > 1 < len(piece)


def length(piece: Inputs) -> int:
    """Number of inputs of a batch."""
    tensors = Call.of(piece).tensors
    return len(tensors[0]) if tensors and tensors[0].dim() else 1


def limited(pieces: Sequence[Inputs], most: int) -> tuple[Inputs, ...]:
    """The first pieces with at least ``most`` inputs, the last cut where it is a tensor."""
    found: list[Inputs] = []
    left = most
    for piece in pieces:
        if left <= 0:
            break
        count = length(piece)
        found.append(piece[:left] if isinstance(piece, torch.Tensor) and count > left else piece)
        left -= count
    return tuple(found)
