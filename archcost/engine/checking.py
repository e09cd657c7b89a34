"""Checking: every layer of a program against float64, where outputs alone may hide what one of them does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from archcost.engine.describing import words_for
from archcost.engine.graph import Node, Value
from archcost.engine.program import Program
from archcost.surgery.outputs import error_of

__all__ = ["layer_errors", "worst_layer"]


def worst_layer(program: Program, inputs: Sequence[Tensor]) -> tuple[float, str]:
    """The largest of the `layer_errors`, and the first layer that has it, in words."""
    found = list(layer_errors(program, inputs))
    node, error = max(found, key=lambda one: one[1])
    names = ", ".join(name or "the model" for name in dict.fromkeys(node.modules))
    return error, f"{names} ({words_for(node)})" if names else words_for(node)


def layer_errors(program: Program, inputs: Sequence[Tensor]) -> Iterator[tuple[Node, float]]:
    """Each node of a program's graph, and the largest error of what its steps wrote, by the largest number.

    The graph is evaluated in float64 beside the program, node by node, and what is not read any more is
    dropped; errors of earlier layers are in those of later ones.

    Args:
        program: with its weights.
        inputs: contiguous float32 tensors on the CPU.
    """
    graph = program.graph
    last = {value: number for number, node in enumerate(graph.nodes) for value in node.inputs}
    known = {value: _wide(x) for value, x in zip(graph.inputs, inputs, strict=True)}

    def exact_of(value: Value) -> Tensor:
        return known[value] if value.constant is None else _wide(value.constant)

    with torch.inference_mode():
        for number, (node, read) in enumerate(program.node_by_node(inputs)):
            given = list(map(exact_of, node.inputs))
            made = node.operator.reference(*given)
            worst = 0.0
            for value, exact in zip(node.outputs, made if node.also else (made,), strict=True):
                assert isinstance(exact, Tensor)
                known[value] = exact
                if exact.is_floating_point() and exact.numel():
                    worst = max(worst, _error(read(value), exact, given))
            for value in (*node.inputs, *node.outputs):
                if last.get(value, number) == number:
                    known.pop(value, None)
            yield node, worst


def _error(found: Tensor, exact: Tensor, given: Sequence[Tensor]) -> float:
    """Where all cancels, by the largest number that it was computed from."""
    if exact.any():
        return error_of(found, exact)
    largest = max((x.abs().max().item() for x in given if x.is_floating_point() and x.numel()), default=0.0)
    return found.abs().max().item() / largest if largest else error_of(found, exact)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
