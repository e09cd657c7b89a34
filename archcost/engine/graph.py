"""Graph: a model's forward pass in the engine's own operators, each result assigned once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from archcost.engine.operators import Operator

__all__ = ["Edits", "Graph", "Node", "Value", "modules_of", "swept"]


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A tensor of the graph, told from others by identity."""

    shape: tuple[int, ...]
    constant: Tensor | None = None
    """Its elements where they are known beforehand."""
    state: tuple[str, ...] = ()
    """Parameters and buffers that a constant was computed from."""
    dtype: torch.dtype = torch.float32

    @property
    def real(self) -> bool:
        """Whether kernels can read it: they know float32 alone, and something to compute."""
        return self.dtype is torch.float32 and 0 not in self.shape

    def __repr__(self) -> str:
        return f"%{id(self) % 9973}{list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Node:
    """An operator, its inputs, and the tensor that it computes; a few compute more than one."""

    operator: Operator
    inputs: tuple[Value, ...]
    output: Value
    modules: tuple[str, ...] = ()
    """Names of the modules whose work it does, in order."""
    also: tuple[Value, ...] = ()
    """Further tensors that it computes."""

    @property
    def outputs(self) -> tuple[Value, ...]:
        return (self.output, *self.also)


def modules_of(*nodes: Node) -> tuple[str, ...]:
    """The modules whose work several nodes do, each once."""
    return tuple(dict.fromkeys(name for node in nodes for name in node.modules))


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    """The tensors that the model returns, in the order of its structure."""


class Edits:
    """A graph that is being changed: nodes are looked up by what they make, and replaced by others."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._slots: list[list[Node]] = [[node] for node in graph.nodes]
        self._slot_of = {node: i for i, node in enumerate(graph.nodes)}
        self._users: dict[Value, list[Node]] = defaultdict(list)
        self._maker: dict[Value, Node] = {}
        self.returned = frozenset(graph.outputs)
        for node in graph.nodes:
            self._add(node)

    def maker(self, value: Value) -> Node | None:
        """The node that computes a value; None for inputs and constants."""
        return self._maker.get(value)

    def users(self, value: Value) -> Sequence[Node]:
        """The nodes that read a value, each once for every time it does."""
        return self._users.get(value, ())

    def only_user(self, value: Value) -> Node | None:
        """The node that alone reads a value; None where several do, or the model returns it."""
        users = self.users(value)
        return users[0] if len(users) == 1 and value not in self.returned else None

    def position(self, node: Node) -> int:
        """Nodes of a smaller position run earlier."""
        return self._slot_of[node]

    def replace(self, old: Iterable[Node], new: Iterable[Node]) -> None:
        """Put nodes, in order, where the last of others stood."""
        old, new = tuple(old), tuple(new)
        slot = max(self._slot_of[node] for node in old)
        place = self._slots[slot].index(next(node for node in old if self._slot_of[node] == slot))
        for node in new:
            self._slots[slot].insert(place, node)
            self._slot_of[node] = slot
            place += 1
        for node in old:
            self._slots[self._slot_of.pop(node)].remove(node)
            for value in node.outputs:
                del self._maker[value]
            for value in node.inputs:
                self._users[value].remove(node)
        for node in new:
            self._add(node)

    def bypass(self, node: Node, value: Value) -> bool:
        """Have those that read a node's output read another value; False where none do, or it is returned."""
        users = list(dict.fromkeys(self.users(node.output)))
        if node.output in self.returned or not users:
            return False
        for user in users:
            inputs = tuple(value if one is node.output else one for one in user.inputs)
            self.replace([user], [replace(user, inputs=inputs)])
        return True

    def nodes(self) -> list[Node]:
        """All nodes, in an order in which they can run."""
        return [node for slot in self._slots for node in slot]

    def done(self) -> Graph:
        """The changed graph, without nodes whose results nothing reads."""
        nodes = self.nodes()
        needed = set(self.returned)
        for node in reversed(nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
        return replace(self._graph, nodes=tuple(node for node in nodes if needed.intersection(node.outputs)))

    def _add(self, node: Node) -> None:
        self._maker.update(dict.fromkeys(node.outputs, node))
        for value in node.inputs:
            self._users[value].append(node)


def swept(graph: Graph, change: Callable[[Edits, Node], bool]) -> Graph:
    """The graph after ``change`` was tried on every node, again and again until it returns True for none."""
    edits = Edits(graph)
    changed = True
    while changed:
        changed = False
        for node in edits.nodes():
            if edits.maker(node.output) is node:
                changed = change(edits, node) or changed
    return edits.done()
