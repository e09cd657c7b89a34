"""Builder: the steps of a program while they are put together, and what they need in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from archcost.engine.forms import Form, Forms
from archcost.engine.graph import Graph, Node, Value
from archcost.engine.memory import ALIGNMENT, Buffer, Held
from archcost.kernels.loading import Images
from archcost.kernels.tensors import loaded

__all__ = ["ArenaPlace", "Builder", "NativeStep", "Place", "TorchStep", "WeightsPlace"]


@dataclass(frozen=True)
class WeightsPlace:
    """Floats of the packed weights."""

    offset: int


@dataclass(frozen=True)
class ArenaPlace:
    """The beginning of the arena."""


Place = Held | WeightsPlace | ArenaPlace | None


@dataclass(frozen=True)
class NativeStep:
    """A call of a kernel."""

    node: Node
    kernel: str
    """The function ``archcost_step_...`` of the library."""
    arguments: ctypes.Structure
    places: tuple[Place, ...]


@dataclass(frozen=True)
class TorchStep:
    """A call of PyTorch."""

    node: Node


@dataclass
class Builder:
    """What the lowering of a node may ask for."""

    graph: Graph
    forms: Forms
    held: dict[Value, Held]
    lanes: int
    isa: str | None = None
    steps: list[NativeStep | TorchStep] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """For each node how many steps there are with its own."""
    weights_floats: int = 0
    _packers: list[tuple[int, Callable[[int], None]]] = field(default_factory=list)
    _constants: dict[Buffer, WeightsPlace] = field(default_factory=dict)
    _late: list[tuple[int, Callable[[Callable[[Held], int]], Tensor]]] = field(default_factory=list)

    @property
    def library(self) -> ctypes.CDLL:
        return loaded(self.isa)

    def form(self, value: Value) -> Form:
        return self.forms[value]

    def blocks(self, channels: int) -> int:
        return -(-channels // self.lanes)

    def images(self, value: Value) -> Images:
        """The description of a tensor of images, wherever it lies."""
        batch, channels, height, width = value.shape
        stride = self.held[value].batch_stride
        if self.forms[value] is Form.PLAIN:
            if height * width == 1:  # channels lie together, as in channels_last
                return Images(batch, channels, 1, 1, stride, 1, channels, channels)
            return Images(batch, channels, height, width, stride, height * width, width, 1)
        lanes = self.lanes
        return Images(*value.shape, stride, 1, width * lanes, lanes, height * width * lanes)

    def weights(self, count: int, write: Callable[[int], None]) -> WeightsPlace:
        """Room among the weights, to which ``write`` packs when it is given the address."""
        place = WeightsPlace(self.weights_floats)
        self._packers.append((place.offset, write))
        self.weights_floats += -(-count // ALIGNMENT) * ALIGNMENT
        return place

    def constant(self, tensor: Tensor, padded: int | None = None) -> WeightsPlace:
        """A vector among the weights, with zeros behind it up to ``padded`` floats."""
        values = tensor.detach().to(torch.float32).reshape(-1)
        count = max(values.numel(), padded or 0)

        def write(address: int) -> None:
            whole = torch.zeros(count, dtype=torch.float32)
            whole[: values.numel()] = values
            ctypes.memmove(address, whole.data_ptr(), 4 * count)

        return self.weights(count, write)

    def channel_vector(self, tensor: Tensor) -> WeightsPlace:
        """A float for each channel, zeros up to whole blocks."""
        return self.constant(tensor, self.blocks(tensor.numel()) * self.lanes)

    def table(self, count: int, make: Callable[[Callable[[Held], int]], Tensor]) -> WeightsPlace:
        """Room for ``count`` int64 that depend on where buffers lie in the arena, in floats."""
        place = WeightsPlace(self.weights_floats)
        self._late.append((place.offset, make))
        self.weights_floats += -(-2 * count // ALIGNMENT) * ALIGNMENT
        return place

    def step(self, node: Node, kernel: str, arguments: ctypes.Structure, places: Sequence[Place]) -> None:
        self.steps.append(NativeStep(node, kernel, arguments, tuple(map(self._known, places))))

    def _known(self, place: Place) -> Place:
        """Constants are among the weights."""
        if not isinstance(place, Held) or (constant := place.buffer.constant) is None:
            return place
        if place.buffer not in self._constants:
            self._constants[place.buffer] = self.constant(constant)
        return WeightsPlace(self._constants[place.buffer].offset + place.offset)

    def pack(self, where: Callable[[Held], int], *, empty: bool = False) -> Tensor:
        """All weights, packed; zeros where ``empty``."""
        memory = (torch.zeros if empty else torch.empty)(self.weights_floats + ALIGNMENT, dtype=torch.float32)
        skip = -memory.data_ptr() % (4 * ALIGNMENT) // 4
        memory = memory[skip:]
        self.library.archcost_prefer_huge_pages(memory.data_ptr(), 4 * self.weights_floats)
        for offset, write in () if empty else self._packers:
            write(memory.data_ptr() + 4 * offset)
        for offset, make in self._late:
            table = make(where).to(torch.int64).contiguous()
            ctypes.memmove(memory.data_ptr() + 4 * offset, table.data_ptr(), 8 * table.numel())
        self._packers.clear()  # which hold weights, and the builder itself
        self._late.clear()
        return memory
