"""Packed: weights in the order in which one kernel of one ISA reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from ctypes import CDLL
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from archcost.kernels.call import Call, convolution
from archcost.kernels.tensors import checked, loaded, offsets

__all__ = ["KINDS", "Packed", "packed_data"]

KINDS: dict[str, type[Packed]] = {}
"""Every kind by its name: weights cross PyTorch's operators as a tensor, a name and a few numbers."""


@dataclass(frozen=True)
class Packed(ABC):
    """What `pack_winograd` and the others give; made once, used with any input that fits."""

    kind: ClassVar[str]
    taps: tuple[int, int]
    out_channels: int
    in_channels: int
    isa: str
    data: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        KINDS[cls.kind] = cls

    @property
    def bytes(self) -> int:
        return self.data.numel() * self.data.element_size()

    @property
    def numbers(self) -> tuple[int, ...]:
        """All but the data and the ISA; `of` reads them."""
        return (*self.taps, self.out_channels, self.in_channels, *self._added())

    @classmethod
    def of(cls, numbers: Sequence[int], isa: str, data: Tensor) -> Self:
        height, width, outs, ins, *own = numbers
        return cls((height, width), outs, ins, isa, data, **cls._read(own))

    def _added(self) -> tuple[int, ...]:
        """The numbers that a kind adds."""
        return ()

    @classmethod
    def _read(cls, added: list[int]) -> dict[str, Any]:
        """Its own fields, from these."""
        return {}

    @abstractmethod
    def run(self, x: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        """The convolution."""

    def execute(
        self,
        name: str,
        numbers: Sequence[int],
        x: Tensor,
        bias: Tensor | None,
        call: Call,
        *,
        steps: bool = False,
        adds: bool = False,
    ) -> Tensor:
        """Call a function of the library, whose first arguments are these numbers.

        ``steps`` is whether it takes a stride and a dilation, ``adds`` whether a tensor to add: none here.
        """
        channels = (self.in_channels, self.out_channels)
        source, output, problem = convolution(x, self.taps, channels, call, steps=steps)
        added = offsets(bias, self.out_channels)
        buffers = (source, self.data, added, *(None,) * adds, output)
        places = [None if one is None else one.data_ptr() for one in buffers]
        checked(getattr(loaded(self.isa), name)(*numbers, problem, *places))
        return output.squeeze(2) if x.dim() == 3 else output


def packed_data(found: CDLL, kernel: str, shape: Sequence[int], source: Tensor) -> Tensor:
    """Weights as a kernel of this library wants them; ``shape`` is what it asks of them."""
    data = torch.empty(getattr(found, f"archcost_{kernel}_packed_floats")(*shape))
    found.archcost_prefer_huge_pages(data.data_ptr(), data.numel() * 4)
    checked(getattr(found, f"archcost_{kernel}_pack")(*shape, source.data_ptr(), data.data_ptr()))
    return data
