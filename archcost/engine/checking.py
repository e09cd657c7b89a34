"""Checking: every layer of a program against float64, where outputs alone may hide what one of them does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from archcost.engine.describing import words_for
from archcost.engine.graph import Node
from archcost.engine.program import Program
from archcost.surgery.outputs import error_of

__all__ = ["Worst", "layer_errors", "worst_layer"]


class Worst(NamedTuple):
    """The layer of a program that is closest to what it may be off, or furthest beyond."""

    error: float
    allowed: float
    name: str

    @property
    def exact(self) -> bool:
        """Whether it is off by no more than that."""
        return self.error <= self.allowed


def worst_layer(program: Program, inputs: Sequence[Tensor], tolerance: float) -> Worst:
    """The worst of the `layer_errors`, the first of those that are as bad.

    A layer may be off by the tolerance, or by twice as much as PyTorch in float32 is there: errors of all
    layers before it add up in both.
    """
    found = [
        # Where PyTorch overflows it says nothing of what is allowed.
        (node, error, max(tolerance, 2 * usual if isfinite(usual) else 0.0))
        for node, error, usual in layer_errors(program, inputs)
    ]
    node, error, allowed = max(found, key=lambda one: one[1] / one[2])
    names = ", ".join(name or "the model" for name in dict.fromkeys(node.modules))
    return Worst(error, allowed, f"{names} ({words_for(node)})" if names else words_for(node))


def layer_errors(program: Program, inputs: Sequence[Tensor]) -> Iterator[tuple[Node, float, float]]:
    """Each node of a program's graph, the largest error of what its steps wrote, by the largest number, and
    that of PyTorch in float32.

    The graph is evaluated in float64 and in float32 beside the program, node by node, and what is not read
    any more is dropped; errors of earlier layers are in those of later ones.

    Args:
        program: with its weights.
        inputs: contiguous float32 tensors on the CPU.
    """
    graph = program.graph
    last = {value: number for number, node in enumerate(graph.nodes) for value in node.inputs}
    known = {value: (_wide(x), x) for value, x in zip(graph.inputs, inputs, strict=True)}

    def read_by(node: Node) -> list[tuple[Tensor, Tensor]]:
        constants = ((value, value.constant) for value in node.inputs)
        return [known[value] if one is None else (_wide(one), _narrow(one)) for value, one in constants]

    with torch.inference_mode():
        for number, (node, read) in enumerate(program.node_by_node(inputs)):
            pairs = read_by(node)
            given = [exact for exact, _ in pairs]
            made, usual = _made(node, given), _made(node, [plain for _, plain in pairs])
            error = of_torch = 0.0
            for value, exact, other in zip(node.outputs, made, usual, strict=True):
                known[value] = exact, other
                if exact.is_floating_point() and exact.numel():
                    error = max(error, _error(read(value), exact, given))
                    of_torch = max(of_torch, _error(other, exact, given))
            for value in (*node.inputs, *node.outputs):
                if last.get(value, number) == number:
                    known.pop(value, None)
            yield node, error, of_torch


def _made(node: Node, given: Sequence[Tensor]) -> Sequence[Tensor]:
    made = node.operator.reference(*given)
    return made if node.also else (made,)  # type: ignore[return-value]


def _error(found: Tensor, exact: Tensor, given: Sequence[Tensor]) -> float:
    """Where all cancels, by the largest number that it was computed from."""
    if exact.any():
        return error_of(found, exact)
    largest = max((x.abs().max().item() for x in given if x.is_floating_point() and x.numel()), default=0.0)
    return found.abs().max().item() / largest if largest else error_of(found, exact)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _narrow(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
