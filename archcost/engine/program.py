"""Program: a whole network as a flat list of steps with planned memory, run by one call into C++."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ctypes import POINTER, c_int64, c_void_p
from dataclasses import replace
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from archcost.engine.forms import Form
from archcost.engine.graph import Graph, Node, Value
from archcost.engine.lowering import lowered
from archcost.engine.lowering.builder import ArenaPlace, NativeStep, TorchStep, WeightsPlace
from archcost.engine.memory import ALIGNMENT, Held, arena
from archcost.engine.weights import without_weights
from archcost.errors import ArchcostError
from archcost.kernels.loading import Place, Step
from archcost.kernels.tensors import checked
from archcost.report.units import bytes_text

__all__ = ["Program", "TooLarge"]

_ARENA, _WEIGHTS = 0, 1


class TooLarge(ArchcostError):
    """A program would take more memory than it may: give it more, or call it with smaller inputs."""


class Program:
    """A graph, compiled. It may be run by several threads at once: each has an arena of its own.

    Args:
        graph: after all passes.
        isa: the instruction set of the kernels; by default the best one here.
        packed: False leaves the weights zero, for a program that is only timed.
        most_bytes: of memory that it may take, known before it is taken.

    Raises:
        TooLarge: it would take more.
    """

    def __init__(
        self, graph: Graph, isa: str | None = None, *, packed: bool = True, most_bytes: float = inf
    ) -> None:
        builder = lowered(graph, isa)
        self.graph, self._held, self._forms = builder.graph, builder.held, builder.forms
        buffers = list(dict.fromkeys(place.buffer for place in self._held.values()))
        inner = [one for one in buffers if one.input is None and one.output is None and one.constant is None]
        self._offsets, self.arena_floats = arena(inner)
        self.arena_bytes = 4 * (self.arena_floats + ALIGNMENT)
        """Bytes of working memory, once for each thread that runs the program."""
        self.weights_bytes = 4 * (builder.weights_floats + ALIGNMENT)
        if self.bytes > most_bytes:
            weights, working = bytes_text(self.weights_bytes), bytes_text(self.arena_bytes)
            raise TooLarge(
                f"its program would take {weights} of packed weights and {working} of working memory, and "
                f"may take {bytes_text(int(most_bytes))}"
            )
        self._library, self._lanes = builder.library, builder.lanes
        self._weights = builder.pack(self._in_arena, empty=not packed)
        self._inputs = len(graph.inputs)
        self.steps, self._ends = builder.steps, builder.ends
        self._runs = self._segments(self.steps)
        self._own = threading.local()
        self.native = self._native()
        """The steps and their number, where one call into C++ runs all, from one input to one output."""

    @property
    def bytes(self) -> int:
        """All that it takes where one thread runs it."""
        return self.arena_bytes + self.weights_bytes

    def __call__(self, inputs: Sequence[Tensor], times: list[float] | None = None) -> list[Tensor]:
        """New tensors of the outputs.

        Args:
            inputs: contiguous float32 tensors on the CPU, of the graph's shapes.
            times: gets the seconds of each step.
        """
        memory, outputs, loose = self._begun(inputs)
        threads = torch.get_num_threads()
        for run in self._runs:
            run(memory, outputs, loose, threads, times)
        return self._results(memory, outputs, loose)

    def bases(self) -> Any:
        """The blocks of memory of the calling thread: arena, weights, inputs and outputs."""
        return self._memory().bases

    def new_outputs(self, count: int, most_bytes: int) -> list[tuple[Tensor, int]]:
        """Tensors for the first output of as many runs, one at least, and their addresses."""
        value = self.graph.outputs[0]
        count = max(1, min(count, most_bytes // (4 * prod(value.shape))))
        made = [torch.empty(value.shape, dtype=value.dtype) for _ in range(count)]
        return [(one, one.data_ptr()) for one in made]

    def _native(self) -> tuple[Any, int] | None:
        if len(self._runs) != 1 or not isinstance(run := self._runs[0], _NativeRun):
            return None
        alone = (len(self.graph.inputs), len(self.graph.outputs)) == (1, 1) and self._is_own(0)
        return (run.steps, run.count) if alone else None

    def node_by_node(self, inputs: Sequence[Tensor]) -> Iterator[tuple[Node, Callable[[Value], Tensor]]]:
        """Run it, and stop after each node with what reads the tensors that are in memory then."""
        memory, outputs, loose = self._begun(inputs)
        threads, begin = torch.get_num_threads(), 0
        for node, end in zip(self.graph.nodes, self._ends, strict=True):
            for run in self._segments(self.steps[begin:end]):
                run(memory, outputs, loose, threads, None)
            begin = end
            yield node, lambda value: self._read(value, memory, outputs, loose)

    def forget(self) -> None:
        """Let go of the graph's weights, which are packed: the graph cannot be evaluated any more."""
        native = {step.node for step in self.steps if isinstance(step, NativeStep)}
        light = without_weights(self.graph, native)
        self.graph = replace(self.graph, nodes=tuple(light.get(node, node) for node in self.graph.nodes))
        self.steps = [
            replace(step, node=light.get(step.node, step.node)) if isinstance(step, NativeStep) else step
            for step in self.steps
        ]

    def _begun(self, inputs: Sequence[Tensor]) -> tuple[_Memory, list[Tensor | None], dict[Value, Tensor]]:
        memory = self._memory()
        outputs = [
            torch.empty(value.shape, dtype=value.dtype) if self._is_own(number) else None
            for number, value in enumerate(self.graph.outputs)
        ]
        bases = memory.bases
        for number, tensor in enumerate(inputs):
            bases[2 + number] = tensor.data_ptr()
        for number, made in enumerate(outputs):
            if made is not None:
                bases[2 + self._inputs + number] = made.data_ptr()
        return memory, outputs, dict(zip(self.graph.inputs, inputs, strict=True))

    def _is_own(self, number: int) -> bool:
        value = self.graph.outputs[number]
        place = self._held.get(value)
        return value.real and place is not None and place.buffer.output == number

    def _results(
        self, memory: _Memory, outputs: list[Tensor | None], loose: dict[Value, Tensor]
    ) -> list[Tensor]:
        results: list[Tensor] = []
        for number, value in enumerate(self.graph.outputs):
            made = outputs[number]
            first = self.graph.outputs.index(value)
            if made is not None:
                results.append(made)
            elif first < number:
                results.append(results[first])
            elif value.constant is not None:
                results.append(value.constant)
            elif value in loose:
                results.append(loose[value])
            else:
                results.append(self._tensor(value, memory, outputs, loose).clone())
        return results

    def _memory(self) -> _Memory:
        found: _Memory | None = getattr(self._own, "memory", None)
        if found is None:
            found = self._own.memory = _Memory(self, self._library)
        return found

    def _in_arena(self, place: Held) -> int:
        return self._offsets[place.buffer] + place.offset

    def _segments(self, steps: Sequence[NativeStep | TorchStep]) -> list[Callable[..., None]]:
        """Calls of kernels in a row are one call into the library."""
        runs: list[Callable[..., None]] = []
        native: list[NativeStep] = []
        for step in steps:
            if isinstance(step, NativeStep):
                native.append(step)
                continue
            if native:
                runs.append(_NativeRun(self, native))
            native = []
            runs.append(_TorchRun(self, step.node))
        if native:
            runs.append(_NativeRun(self, native))
        return runs

    def place(self, place: object) -> tuple[int, int]:
        """The base and the offset in floats of a place; base -1 is null."""
        if place is None:
            return -1, 0
        if isinstance(place, WeightsPlace):
            return _WEIGHTS, place.offset
        if isinstance(place, ArenaPlace):
            return _ARENA, 0
        assert isinstance(place, Held)
        buffer = place.buffer
        if buffer.input is not None:
            return 2 + buffer.input, place.offset
        if buffer.output is not None:
            return 2 + self._inputs + buffer.output, place.offset
        return _ARENA, self._in_arena(place)

    def _tensor(
        self, value: Value, memory: _Memory, outputs: list[Tensor | None], loose: dict[Value, Tensor]
    ) -> Tensor:
        """A plain tensor, where it lies."""
        if value.constant is not None:
            constant = value.constant
            return constant.to(torch.float32) if constant.is_floating_point() else constant
        if value in loose:
            return loose[value]
        place = self._held[value]
        output = place.buffer.output
        if output is not None:
            made = outputs[output]
            assert made is not None
            whole = made.reshape(-1)
        elif place.buffer.input is not None:
            whole = loose[self.graph.inputs[place.buffer.input]].reshape(-1)
        else:
            whole = memory.arena[self._offsets[place.buffer] :]
        return whole[place.offset : place.offset + prod(value.shape)].view(value.shape)

    def _read(
        self, value: Value, memory: _Memory, outputs: list[Tensor | None], loose: dict[Value, Tensor]
    ) -> Tensor:
        """A tensor in whatever form it lies there."""
        if self._forms.get(value) is not Form.BLOCKED or value in loose:
            return self._tensor(value, memory, outputs, loose)
        batch, channels, height, width = value.shape
        lanes, place = self._lanes, self._held[value]
        blocked = memory.arena.as_strided(
            (batch, -(-channels // lanes), lanes, height, width),
            (place.batch_stride, height * width * lanes, 1, width * lanes, lanes),
            memory.arena.storage_offset() + self._in_arena(place),
        )
        return blocked.flatten(1, 2)[:, :channels]


class _Memory:
    """What one thread works in."""

    def __init__(self, program: Program, library: ctypes.CDLL) -> None:
        count = program.arena_floats
        with torch.inference_mode(False):  # what is made inside of it could not be written to outside
            whole = torch.empty(count + ALIGNMENT, dtype=torch.float32)
        skip = -whole.data_ptr() % (4 * ALIGNMENT) // 4
        self.arena = whole[skip : skip + count]
        library.archcost_prefer_huge_pages(self.arena.data_ptr(), 4 * count)
        self.bases = (c_void_p * (2 + program._inputs + len(program.graph.outputs)))()
        self.bases[_ARENA], self.bases[_WEIGHTS] = self.arena.data_ptr(), program._weights.data_ptr()


class _NativeRun:
    """Neighbouring calls of kernels."""

    def __init__(self, program: Program, steps: Sequence[NativeStep]) -> None:
        self._call = program._library.archcost_run
        self.count = len(steps)
        self.steps = (Step * len(steps))()
        self._alive: list[object] = []
        for made, step in zip(self.steps, steps, strict=True):
            places = (Place * len(step.places))(*(Place(*program.place(one)) for one in step.places))
            self._alive += [step.arguments, places]
            function = getattr(program._library, f"archcost_step_{step.kernel}")
            made.function = ctypes.cast(function, c_void_p).value
            made.arguments = ctypes.addressof(step.arguments)
            made.places = ctypes.addressof(places)
            made.count = len(step.places)

    def __call__(
        self, memory: _Memory, outputs: object, loose: object, threads: int, times: list[float] | None
    ) -> None:
        if times is None:
            checked(self._call(self.steps, self.count, memory.bases, threads, None))
            return
        taken = (c_int64 * self.count)()
        checked(
            self._call(self.steps, self.count, memory.bases, threads, ctypes.cast(taken, POINTER(c_int64)))
        )
        times += [1e-9 * one for one in taken]


class _TorchRun:
    """A call of PyTorch."""

    def __init__(self, program: Program, node: Node) -> None:
        self._program, self._node = program, node

    def __call__(
        self,
        memory: _Memory,
        outputs: list[Tensor | None],
        loose: dict[Value, Tensor],
        threads: int,
        times: list[float] | None,
    ) -> None:
        began = time.perf_counter()
        node, program = self._node, self._program
        inputs = [program._tensor(value, memory, outputs, loose) for value in node.inputs]
        made = node.operator.reference(*inputs)
        assert isinstance(made, Tensor)  # further tensors come from kernels alone
        if node.output.real:
            program._tensor(node.output, memory, outputs, loose).copy_(made)
        else:
            loose[node.output] = made.clone() if made._is_view() else made
        if times is not None:
            times.append(time.perf_counter() - began)
