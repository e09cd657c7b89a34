"""Replay: intervals propagated through the operations of a Trace, in order of execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.intervals.span import Span
from archcost.fields.intervals.taps import STILL
from archcost.fields.registry import everything, rule_for, slides
from archcost.fields.replay.memory import IntervalMemory
from archcost.trace.graph import Argument, Op, TensorRef, Trace, refs

if TYPE_CHECKING:
    from archcost.fields.replay.masks import Masks

__all__ = ["InputAxis", "Opaque", "Replay", "interval_seed", "replay"]


@dataclass(frozen=True, slots=True)
class InputAxis:
    """A tracked axis of an input tensor."""

    tensor: int
    """The index of the tensor among the inputs."""
    dim: int
    size: int


@dataclass(frozen=True, slots=True)
class Opaque:
    """An operation without a working rule: its outputs are assumed to depend on all of its inputs."""

    op: int
    name: str
    module: str
    reason: str


@dataclass(frozen=True)
class Replay:
    """The intervals of the outputs of each operation and each module call of a Trace."""

    axes: tuple[InputAxis, ...]
    ops: tuple[Intervals | None, ...]
    """The intervals of the first output of each operation."""
    calls: tuple[tuple[Intervals | None, ...], ...]
    """The intervals of the outputs of each module call."""
    outputs: tuple[tuple[TensorRef, Intervals | None], ...]
    """The tensors that were to be kept (the model's outputs), with their intervals."""
    opaque: tuple[Opaque, ...]
    operands: dict[int, tuple[Intervals, ...]]
    """The intervals of the operands of windows and of operations on several tensors, by operation."""


def interval_seed(size: int, rank: int, dim: int) -> Span:
    """The seed of an input axis: each pixel depends on itself, in both the exact and the local rows."""
    index = np.arange(size)
    values = np.stack([index, -index, index, -index]).reshape(4, *(1,) * dim, size, *(1,) * (rank - dim - 1))
    return Span(values, tuple((1, 1) if d == dim else STILL for d in range(rank)))


def replay(
    trace: Trace,
    axes: Sequence[InputAxis],
    stop: int | None = None,
    keep: Sequence[TensorRef] | None = None,
    seed: Callable[[int, int, int], Span] = interval_seed,
) -> Replay:
    """Propagate the intervals of input axes through the operations of a Trace.

    Args:
        trace: the Trace.
        axes: the input axes to track.
        stop: the index of the operation before which to stop; by default the end.
        keep: the tensors whose intervals at the end are returned; by default the model's outputs.
        seed: (size, rank, dim) -> the Span of an input axis of that size, at a dimension of a tensor of
            that rank.
    """
    tensors = list(refs(trace.inputs))
    memory = IntervalMemory()
    for t, ref in enumerate(tensors):
        spans = [(seed(a.size, len(ref.shape), a.dim),) if a.tensor == t else () for a in axes]
        if any(spans):
            memory.put(ref, Intervals(ref.shape, spans))
    return _Run(trace, tuple(axes), memory).run(len(trace.ops) if stop is None else stop, keep)


class _Run:
    """A replay in progress; it is the `See` of the current operation."""

    def __init__(self, trace: Trace, axes: tuple[InputAxis, ...], memory: IntervalMemory) -> None:
        self.trace = trace
        self.axes = axes
        self.memory = memory
        self.opaque: list[Opaque] = []
        self.operands: dict[int, tuple[Intervals, ...]] = {}
        self.at = 0

    def __call__(self, ref: Argument) -> Intervals | None:
        return self.memory.read(ref) if isinstance(ref, TensorRef) else None

    @cached_property
    def masks(self) -> Masks:
        from archcost.fields.replay.masks import Masks

        return Masks(self.trace)

    def zeros(self, ref: Argument) -> np.ndarray | None:
        return self.masks.zeros(ref, self.at) if isinstance(ref, TensorRef) else None

    def lows(self, ref: Argument, dim: int) -> np.ndarray | None:
        return self.masks.lows(ref, self.at, dim) if isinstance(ref, TensorRef) else None

    def run(self, stop: int, keep: Sequence[TensorRef] | None) -> Replay:
        trace = self.trace
        found: list[Intervals | None] = []
        ends: dict[int, list[int]] = {}
        for call in trace.calls:
            ends.setdefault(call.end_op, []).append(call.index)
        left: list[tuple[Intervals | None, ...]] = [()] * len(trace.calls)
        for at in range(stop + 1):
            for index in ends.get(at, ()):
                left[index] = tuple(map(self, trace.calls[index].outputs))
            if at < stop:
                found.append(self.step(trace.ops[at]))
        outputs = tuple((ref, self(ref)) for ref in (refs(trace.outputs) if keep is None else keep))
        return Replay(self.axes, tuple(found), tuple(left), outputs, tuple(self.opaque), self.operands)

    def step(self, op: Op) -> Intervals | None:
        """Apply the rule of an operation and store its outputs' intervals; returns those of the first."""
        memory, self.at = self.memory, op.index
        seen = tuple(
            x for ref in op.tensors() if ref.storage in memory and (x := memory.read(ref)) is not None
        )
        if not seen and not any(storage in memory for storage in op.writes):
            return None
        if len(seen) > 1 or slides(op):
            self.operands[op.index] = seen
        results = self._apply(op)
        storages = self.trace.storages
        for ref, result in zip(op.outputs, results, strict=True):
            if ref.storage in op.writes and storages[ref.storage].created_by != op.index:
                copied = op.base == "aten.copy_"
                memory.write(ref, result, storages[ref.storage].nbytes, self._made(ref.storage), copied)
            else:
                memory.put(ref, result)
        self._hidden_writes(op)
        return results[0] if results else None

    def _made(self, storage: int) -> TensorRef | None:
        """The tensor as which a storage was allocated; None for an input or constant."""
        created = self.trace.storages[storage].created_by
        outputs = () if created is None else self.trace.ops[created].outputs
        return next((ref for ref in outputs if ref.storage == storage), None)

    def _apply(self, op: Op) -> list[Intervals | None]:
        rule = rule_for(op.name)
        reason = "no rule for this operator"
        if rule is not None:
            try:
                result = rule(op, self)
                results: list[Intervals | None]
                results = list(result) if isinstance(result, (list, tuple)) else [result] * len(op.outputs)
                reason = _unfit(op, results)
                if not reason:
                    return results
            except Exception as error:  # a rule may not support every call of its operator
                reason = f"its rule failed: {type(error).__name__}: {error}"
        elif not op.writes and not op.reads:
            return [self(ref) for ref in op.outputs]  # a view: derived from its storage
        if not op.outputs:
            return []
        self.opaque.append(Opaque(op.index, op.name, self.trace.module_of(op), reason))
        return [everything(op, self, ref.shape) for ref in op.outputs]

    def _hidden_writes(self, op: Op) -> None:
        """Storages that an operation wrote but did not return: running statistics, lists of tensors."""
        hidden = set(op.writes).difference(ref.storage for ref in op.outputs)
        if not hidden:
            return
        for ref in op.tensors():
            seen = everything(op, self, ref.shape) if ref.storage in hidden else None
            if seen is not None:
                self.memory.flood(ref, seen)


def _unfit(op: Op, results: Sequence[Intervals | None]) -> str:
    """The reason why a rule's results do not fit the outputs, in words; empty if they fit."""
    if len(results) != len(op.outputs):
        return f"its rule returned {len(results)} results for {len(op.outputs)} outputs"
    for ref, seen in zip(op.outputs, results, strict=True):
        if seen is not None and seen.shape != ref.shape:
            return f"its rule returned the shape {seen.shape} for an output of shape {ref.shape}"
    return ""
