"""Recipe: everything of a program but the weights, from which it is made and made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from archcost.engine.available import available_bytes
from archcost.engine.binding import Arguments, Outputs
from archcost.engine.choosing import Chosen, Times, choose
from archcost.engine.exactness import Banned
from archcost.engine.graph import Graph
from archcost.engine.kept import Kept
from archcost.engine.passes import fused
from archcost.engine.program import Program
from archcost.engine.reading.constants import Constants, constants_of
from archcost.engine.reading.read import read
from archcost.engine.reading.registry import Refused
from archcost.engine.tuning import tune
from archcost.engine.weights import give_back, rounded
from archcost.trace.call import Call
from archcost.trace.graph import Trace
from archcost.trace.modules import named_state, walk

__all__ = ["Recipe", "graph_of", "state_of"]


@dataclass(frozen=True)
class Recipe:
    """Everything of a program but the weights: it can be pickled, and the program made again."""

    trace: Trace
    arguments: Arguments
    outputs: Outputs
    constants: Constants = field(default_factory=dict)
    """Tensors that the forward reads beside parameters, buffers and inputs."""
    times: Times = field(default_factory=dict)
    """Seconds of the variants of layers, by which they are chosen."""
    banned: Banned = frozenset()
    """Variants that are not exact enough, or need too much memory."""
    memory: int | None = None
    """The most bytes that a program may take; None: those that are left when it is made."""

    @classmethod
    def of(cls, model: nn.Module, call: Call, trace: Trace, example: Any) -> tuple[Recipe, Graph]:
        """With the graph of the model as it is now, after all passes.

        Args:
            model: in evaluation mode.
            call: the call that was traced.
            trace: the trace.
            example: what the model returned for that call.

        Raises:
            Refused: no program can be made of it.
        """
        if trace.failed is not None:
            raise Refused("its forward raises")
        constants = constants_of(model, call, trace)
        graph = read(trace, _laid_out(trace, state_of(model)), constants)
        if not graph.nodes:
            raise Refused("it computes nothing")
        arguments = Arguments(call, trace, type(model).forward)
        recipe = cls(trace, arguments, Outputs(example, graph), constants)
        return recipe, _fused(graph)

    def again(self, state: Mapping[str, Tensor]) -> Program:
        """The program with other weights."""
        return self.made(self.graph(state))[0]

    def graph(self, state: Mapping[str, Tensor]) -> Graph:
        """The graph with these weights, after all passes."""
        return graph_of(self.trace, state, self.constants)

    def made(
        self, graph: Graph, deadline: float = -inf, kept: Kept | None = None, *, evaluated: bool = False
    ) -> tuple[Program, Chosen]:
        """The program of the graph, and which variants it has.

        Args:
            graph: after all passes.
            deadline: of `time.perf_counter`: until then variants are timed whose time is not known.
            kept: where known times are looked up, and new ones kept.
            evaluated: the program keeps its graph's weights, so that `layer_errors` can evaluate it.

        Raises:
            TooLarge: it would take more memory than it may.
        """
        # What is made in inference mode could not be used outside it.
        with torch.inference_mode(False), torch.no_grad():
            graph, chosen = choose(
                graph,
                known=self.times,
                allowed=self._allows,
                deadline=deadline,
                kept=kept,
            )
            give_back()
            program = Program(graph, most_bytes=self.room())
            del graph
            if not evaluated:
                program.forget()
            give_back()
            return program, chosen

    def tuned(self, graph: Graph, call: Call, deadline: float) -> bool:
        """Correct the times by those inside of the program; whether other variants are chosen now.

        Args:
            graph: after all passes.
            call: a call of the model.
            deadline: of `time.perf_counter`.
        """
        with torch.inference_mode(False), torch.no_grad():
            inputs = self.arguments.read(call)
            return tune(graph, self.times, inputs, allowed=self._allows, deadline=deadline)

    def room(self) -> float:
        """The most bytes that a program made now may take."""
        return available_bytes() if self.memory is None else self.memory

    def _allows(self, key: str, variant: str) -> bool:
        return (key, variant) not in self.banned

    def names(self) -> list[str]:
        """The parameters and buffers that the program is made of."""
        used = {ref.storage for op in self.trace.ops for ref in op.tensors()}
        kept = (self.trace.storages[index] for index in sorted(used))
        return [one.name for one in kept if one.origin in ("parameter", "buffer") and one.name is not None]


def graph_of(trace: Trace, state: Mapping[str, Tensor], constants: Constants) -> Graph:
    """The graph of a trace after all passes.

    Args:
        trace: of a model in evaluation mode.
        state: its parameters and buffers, by name.
        constants: what it reads beside these.

    Raises:
        Refused: no program can be made of it.
    """
    return _fused(read(trace, _laid_out(trace, state), constants))


def _fused(graph: Graph) -> Graph:
    # What is made in inference mode could not be used outside it.
    with torch.inference_mode(False), torch.no_grad():
        graph = fused(graph)
        nodes, graph = list(graph.nodes), replace(graph, nodes=())
        rounded(nodes)
        give_back()
        return replace(graph, nodes=tuple(nodes))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by the names of the Trace."""
    return {f"{owner}.{key}" if owner else key: tensor for owner, _, key, tensor in named_state(walk(model))}


def _laid_out(trace: Trace, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state as it lay in memory when it was traced: a reader goes by the trace's strides and offsets."""
    found = {name: tensor.detach() for name, tensor in state.items()}
    seen: set[str] = set()
    for op in trace.ops:
        for ref in op.tensors():
            name = trace.storages[ref.storage].name
            if name is None or name not in found or name in seen:
                continue  # what is read later may be a view: the transpose of a square
            seen.add(name)
            tensor = found[name]
            if tensor.shape != ref.shape:
                continue
            if (tensor.stride(), tensor.storage_offset()) != (ref.stride, ref.offset):
                if ref.offset:
                    raise Refused(f"{name} is a part of a larger block of memory")
                found[name] = torch.empty_strided(ref.shape, ref.stride, dtype=tensor.dtype).copy_(tensor)
    return found
