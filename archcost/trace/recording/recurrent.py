"""Recurrent layers on `meta` as a CPU runs them, without unrolling: the cost of a step times the steps.

On a CPU an LSTM is one oneDNN operator a layer and direction. RNN, GRU, and an LSTM with projections or in
float64 run step by step, after one product for the inputs of all steps (``aten/src/ATen/native/RNN.cpp``);
those are recorded as the one operator that the model calls, with the memory inside it in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch._ops import OpOverload

aten = torch.ops.aten

_ONE_DNN = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Allocations:
    """Bytes of tensors that are allocated and freed: alive now, the peak, and the total allocated."""

    live: int = 0
    peak: int = 0
    total: int = 0

    def take(self, nbytes: int) -> int:
        self.live += nbytes
        self.total += nbytes
        self.peak = max(self.peak, self.live)
        return nbytes

    def free(self, *nbytes: int) -> None:
        self.live -= sum(nbytes)

    def repeat(self, times: int, step: Callable[[], None]) -> None:
        """The effect of ``times`` calls of ``step``, each like the first; bytes that it leaves add up."""
        if times < 1:
            return
        live, total, peak, self.peak = self.live, self.total, self.peak, 0
        step()
        left, taken = self.live - live, self.total - total
        self.live += (times - 1) * left
        self.total += (times - 1) * taken
        self.peak = max(peak, self.peak + (times - 1) * left)


@dataclass(frozen=True)
class Layers:
    """The arguments of ``aten.gru.input`` (or lstm, rnn_tanh, rnn_relu), and sizes derived from them."""

    op: OpOverload
    x: torch.Tensor
    states: list[torch.Tensor]
    params: list[torch.Tensor]
    biases: bool
    count: int
    dropout: float
    train: bool
    both_ways: bool
    batch_first: bool

    @cached_property
    def kind(self) -> str:
        """``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``."""
        return str(self.op.name()).removeprefix("aten::").partition(".")[0]

    @property
    def gates(self) -> int:
        return {"lstm": 4, "gru": 3}.get(self.kind, 1)

    @property
    def directions(self) -> int:
        return 2 if self.both_ways else 1

    @cached_property
    def sequence(self) -> torch.Tensor:
        """The input as (steps, batch, features)."""
        return self.x.transpose(0, 1) if self.batch_first else self.x

    @property
    def projected(self) -> bool:
        return bool(self.states[0].shape[2] != self.params[1].shape[0] // self.gates)

    @property
    def unit(self) -> int:
        """Bytes of one hidden state (batch, hidden)."""
        return self.sequence.shape[1] * (self.params[1].shape[0] // self.gates) * self.x.element_size()

    @property
    def out(self) -> int:
        """Bytes of the output of a step in one direction."""
        return self.sequence.shape[1] * self.states[0].shape[2] * self.x.element_size()

    @property
    def learns(self) -> bool:
        return any(weights.requires_grad for weights in self.params)

    def fits(self) -> bool:
        """Whether the sizes agree; where they do not, PyTorch raises."""
        x, first = self.sequence, self.params[0]
        each = len(self.params) / (self.count * self.directions)
        head = (self.count * self.directions, x.shape[1] if x.dim() == 3 else 0)
        return (
            x.dim() == 3
            and x.shape[0] > 0
            and x.shape[2] == first.shape[1]
            and x.dtype == first.dtype
            and each == 2 + 2 * self.biases + self.projected
            and all(tuple(state.shape[:2]) == head for state in self.states)
        )

    def memory(self) -> Allocations:
        """The allocations of the operators inside, in their order without gradients."""
        memory = Allocations()
        steps, out, unit = self.sequence.shape[0], self.out, self.unit
        given = 0
        for layer in range(self.count):
            result = lists = product = 0
            for _ in range(self.directions):
                # A product in two dimensions, for which a transposed input is copied.
                copy = 0 if layer else memory.take(self._copied())
                product, before = memory.take(self.gates * steps * unit), product
                memory.free(copy, before)
                self._step(memory, 0)
                memory.repeat(steps - 1, lambda: self._step(memory, unit))
                lists += steps * out
                result += memory.take(steps * out)
            if self.both_ways:
                joined = memory.take(result)
                memory.free(result)
                result = joined
            # The last steps' outputs live on, as last states.
            memory.free(product, lists - self.directions * out, given)
            given = result
            if self.dropout and self.train and layer + 1 < self.count:
                noise, given = memory.take(result), memory.take(result)
                memory.free(noise, result)
        for state in self.states:
            memory.take(state.numel() * state.element_size())
        return memory

    def _copied(self) -> int:
        # Frozen weights are multiplied batch by batch, without a copy.
        copied = self.params[0].requires_grad and not self.sequence.is_contiguous()
        return self.x.numel() * self.x.element_size() if copied else 0

    def _step(self, memory: Allocations, cell_before: int) -> None:
        """A step: its output stays allocated; the cell state of an LSTM replaces the previous one."""
        unit = self.unit
        if self.kind == "gru":
            gates, new = memory.take(3 * unit), memory.take(unit)
            memory.take(self.out)
            memory.free(gates, new)
        elif self.kind == "lstm":
            gates, _ = memory.take(4 * unit), memory.take(unit)  # the second is the cell state
            memory.free(memory.take(unit))
            bent = memory.take(unit)
            hidden = memory.take(unit)
            memory.free(bent)
            if self.projected:
                memory.take(self.out)
                memory.free(hidden)
            memory.free(gates, cell_before)
        else:
            hidden = memory.take(unit)
            memory.take(self.out)
            memory.free(hidden)

    def kept(self) -> int:
        """Bytes of the intermediate tensors that autograd saves for backward."""
        steps, unit, out = self.sequence.shape[0], self.unit, self.out
        # Products with trainable weights save their other factor: the states and inputs.
        if self.kind == "gru":  # gates, the new gate, and clones of tensors that in-place products overwrite
            each = steps * 6 * unit + self.learns * (steps - 1) * out
        elif self.kind == "lstm":  # gates, tanh of the cell state, the previous cell state
            each = steps * (5 + self.projected) * unit + (steps - 1) * (unit + self.learns * out)
        else:  # tanh and relu save their result
            each = steps * out
        between = steps * out * self.directions
        kept = self.directions * (self.count * each + self.learns * self._copied())
        noise = between if self.dropout and self.train else 0
        return kept + (self.count - 1) * (self.learns * between + noise)

    def kept_outside(self) -> list[torch.Tensor]:
        """The arguments that autograd saves for backward as they are."""
        kept = [] if self._copied() or not self.learns else [self.x]
        hidden = self.states if self.learns else self.states[1:]
        return kept + hidden

    def results(self) -> list[torch.Tensor]:
        """Empty tensors with the shapes of the output and the final states."""
        steps, batch = self.sequence.shape[:2]
        output = self.x.new_empty((steps, batch, self.states[0].shape[2] * self.directions))
        return [
            output.transpose(0, 1) if self.batch_first else output,
            *(self.x.new_empty(state.shape) for state in self.states),
        ]


def one_dnn(layers: Layers) -> tuple[torch.Tensor, ...]:
    """An LSTM as its CPU kernel runs it: one operator per layer and direction."""
    # The kernel holds the copied input and the outputs of the previous layer until the last layer is done.
    first_input = x = layers.sequence.contiguous()
    outputs = [x] * layers.directions
    hx, cx = (state.contiguous() for state in layers.states)
    each = len(layers.params) // (layers.count * layers.directions)
    hidden = layers.params[1].shape[1]
    options = (hidden, layers.count, layers.biases, layers.both_ways, layers.batch_first, layers.train)
    states: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in range(layers.count):
        for direction in range(layers.directions):
            index = layer * layers.directions + direction
            weights = layers.params[index * each : (index + 1) * each]
            first = hx.select(0, index), cx.select(0, index)
            outputs[direction], *last = aten.mkldnn_rnn_layer(
                *(x, *weights, *([] if layers.biases else map(torch.zeros_like, weights)), *first),
                *(direction > 0, [], 2, *options),
            )[:3]
            states.append((last[0], last[1]))
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        if layers.dropout and layers.train and layer + 1 < layers.count:
            x = torch.dropout(x, layers.dropout, True)
    hy, cy = (torch.stack(parts) for parts in zip(*states, strict=True))
    del first_input
    return x.transpose(0, 1) if layers.batch_first else x, hy, cy


def runs_on_one_dnn(layers: Layers) -> bool:
    return layers.kind == "lstm" and not layers.projected and layers.x.dtype in _ONE_DNN


OPERATORS = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


def bind(
    op: OpOverload,
    x: torch.Tensor,
    hx: torch.Tensor | Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    biases: bool,
    count: int,
    dropout: float,
    train: bool,
    both_ways: bool,
    batch_first: bool,
) -> Layers:
    """The `Layers` of the arguments of an operator in `OPERATORS`."""
    states = [hx] if isinstance(hx, torch.Tensor) else list(hx)
    return Layers(op, x, states, list(params), biases, count, dropout, train, both_ways, batch_first)
