"""Dataflow: an index of a Trace by the operations that produce and consume each tensor, and by module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from archcost.trace.graph import ModuleCall, Op, TensorRef, Trace, refs

__all__ = ["Dataflow", "first_names"]


class Dataflow:
    """The producers, consumers and module calls of one Trace; a module is looked up by its first name."""

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
        """The calls of the module with that first name, in order of execution."""
        return self._calls.get(name, ())

    def takers(self, storage: int, after: int = -1) -> list[Op]:
        """The operations after index ``after`` that read a storage, in order of execution.

        Copies that nothing reads, which autograd makes before an in-place operation, are left out.
        """
        return [op for op in self._takers.get(storage, ()) if op.index > after and not self._is_dead(op)]

    def maker(self, ref: TensorRef, before: int) -> Op | None:
        """The last operation before index ``before`` that returned exactly this tensor."""
        return next((op for op in reversed(self.trace.ops[:before]) if ref in op.outputs), None)

    def last_write(self, storage: int, before: int) -> int:
        """The index of the last operation before ``before`` that wrote a storage; -1 if none did."""
        return next((op.index for op in reversed(self.trace.ops[:before]) if storage in op.writes), -1)

    def convolutions(self) -> dict[str, tuple[Op, ...]]:
        """The convolutions of each module, by its first name, in order of execution."""
        made: dict[str, list[Op]] = defaultdict(list)
        for op in self.trace.ops:
            if op.base == "aten.convolution":
                made[self.module_of(op)].append(op)
        return {name: tuple(ops) for name, ops in made.items()}

    def makes_one_a_call(self, name: str, ops: Sequence[Op]) -> bool:
        """Whether each call of a module ran exactly one of these operations."""
        return len(ops) == len(self.calls(name)) == len({op.call for op in ops})

    def _is_dead(self, op: Op) -> bool:
        if op.base != "aten.clone":
            return False
        made = {ref.storage for ref in op.outputs}
        return not made & self.returned and not any(self._takers.get(storage) for storage in made)


def first_names(trace: Trace) -> dict[str, str]:
    """The first name of each registered module, by each of its names."""
    return {alias: name for name, info in trace.modules.items() for alias in (name, *info.aliases)}
