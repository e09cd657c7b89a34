"""Dataflow: a trace by who makes and who takes each tensor, and which module is called, and how often."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from archcost.trace.graph import ModuleCall, Op, TensorRef, Trace, refs

__all__ = ["Dataflow", "first_names"]


class Dataflow:
    """The index of one trace, made once. A module that has several names goes by its first one."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.names = first_names(trace)
        self.returned = frozenset(ref.storage for ref in refs(trace.outputs))
        """Storages that the model returns."""
        self._calls: dict[str, list[ModuleCall]] = defaultdict(list)
        for call in trace.calls:
            self._calls[self.names.get(call.module, call.module)].append(call)
        self._takers: dict[int, list[Op]] = defaultdict(list)
        for op in trace.ops:
            for storage in dict.fromkeys(ref.storage for ref in op.tensors()):
                self._takers[storage].append(op)

    def module_of(self, op: Op) -> str:
        """The first name of the module that made an operation."""
        name = self.trace.module_of(op)
        return self.names.get(name, name)

    def calls(self, name: str) -> Sequence[ModuleCall]:
        """Of the module of that first name, in order."""
        return self._calls.get(name, ())

    def takers(self, storage: int, after: int = -1) -> list[Op]:
        """The operations behind one that take what lies in a storage, in order; not the one that made it.

        Not copies that nobody reads, which autograd makes before an operation in place.
        """
        return [op for op in self._takers.get(storage, ()) if op.index > after and not self._is_dead(op)]

    def maker(self, ref: TensorRef, before: int) -> Op | None:
        """The last operation before one that gave this very tensor."""
        return next((op for op in reversed(self.trace.ops[:before]) if ref in op.outputs), None)

    def last_write(self, storage: int, before: int) -> int:
        """The operation that wrote what one at ``before`` reads; -1 for an input of the model."""
        return next((op.index for op in reversed(self.trace.ops[:before]) if storage in op.writes), -1)

    def convolutions(self) -> dict[str, tuple[Op, ...]]:
        """By the first name of a module, the convolutions that it makes, in order."""
        made: dict[str, list[Op]] = defaultdict(list)
        for op in self.trace.ops:
            if op.base == "aten.convolution":
                made[self.module_of(op)].append(op)
        return {name: tuple(ops) for name, ops in made.items()}

    def makes_one_a_call(self, name: str, ops: Sequence[Op]) -> bool:
        """Whether each call of a module made one of these operations, and no other did."""
        return len(ops) == len(self.calls(name)) == len({op.call for op in ops})

    def _is_dead(self, op: Op) -> bool:
        if op.base != "aten.clone":
            return False
        made = {ref.storage for ref in op.outputs}
        return not made & self.returned and not any(self._takers.get(storage) for storage in made)


def first_names(trace: Trace) -> dict[str, str]:
    """By every name of a registered module, its first."""
    return {alias: name for name, info in trace.modules.items() for alias in (name, *info.aliases)}
