"""On paper: the graph of a program without a model's weights, and its layers as plain values.

Which steps a program has depends on the sizes of weights, not on their values: made-up ones do.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from math import isfinite, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from archcost.engine import operators
from archcost.engine.activation import Activation
from archcost.engine.graph import Graph, Node, Value
from archcost.engine.reading.registry import Refused
from archcost.engine.recipe import graph_of
from archcost.errors import InputError
from archcost.trace.graph import Trace

__all__ = ["Work", "graph_on_paper", "layer_of", "node_of", "work_of_layer"]

_LAYERS = (
    *(operators.Convolution, operators.InvertedResidual, operators.Linear, operators.SqueezeExcite),
    *(operators.Pool, operators.LayerNorm, operators.Attention, operators.MatMul),
)
"""Operators that are timed by themselves; the others move or map what there is."""
_TYPES: dict[str, type[Any]] = {one.__name__: one for one in (*_LAYERS, operators.Affine, Activation)}
# Neither 0 nor 1, which passes would leave out.
_MADE_UP = 0.37


class Work(NamedTuple):
    """The work of a layer."""

    kind: str
    """Its operator by name; dense, pointwise and grouped convolutions apart, and linear layers of a row."""
    macs: int
    bytes: int
    """Read and written, weights included."""


def graph_on_paper(trace: Trace) -> Graph:
    """The graph of a traced model after all passes, its weights made up.

    Raises:
        Refused: no program can be made of it, or none without running it.
    """
    state: dict[str, Tensor] = {}
    for op in trace.ops:
        for ref in op.tensors():
            storage = trace.storages[ref.storage]
            if storage.origin in ("parameter", "buffer") and storage.name not in (None, *state):
                made = torch.empty_strided(ref.shape, ref.stride, dtype=ref.dtype)
                state[str(storage.name)] = made.fill_(_MADE_UP if made.is_floating_point() else 0)
    try:
        return graph_of(trace, state, {})
    except Refused:
        raise
    except Exception as error:  # a pass that reads values which are not there
        raise Refused(f"{type(error).__name__}: {error}") from error


def layer_of(node: Node) -> str | None:
    """A node as JSON, the same for all that take equally long; None where it is not timed by itself."""
    timed = all(one.real and one.constant is None for one in node.inputs)
    if type(node.operator) not in _LAYERS or not timed:
        return None
    # The same tensor may be read twice.
    order = list(dict.fromkeys(node.inputs))
    values = {
        "operator": _plain(node.operator),
        "inputs": [one.shape for one in order],
        "reads": [order.index(one) for one in node.inputs],
        "outputs": [one.shape for one in node.outputs],
    }
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def node_of(layer: str) -> Node:
    """The node that `layer_of` wrote, its weights zero.

    Raises:
        InputError: the text is no layer.
    """
    try:
        found = json.loads(layer)
        inputs = [Value(tuple(shape)) for shape in found["inputs"]]
        output, *also = (Value(tuple(shape)) for shape in found["outputs"])
        operator = _made(found["operator"])
        if type(operator) not in _LAYERS:
            raise TypeError(f"{type(operator).__name__} is no layer")
        return Node(operator, tuple(inputs[at] for at in found["reads"]), output, also=tuple(also))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"no layer of a program: {error!r}") from error


def work_of_layer(layer: str) -> Work:
    """The work of a layer."""
    node = node_of(layer)
    weights = [one for one in _tensors(node.operator) if one.dim() > 1]
    moved = 4 * sum(prod(value.shape) for value in (*node.inputs, *node.outputs))
    return Work(_kind(node), _macs(node), moved + 4 * sum(one.numel() for one in weights))


def _kind(node: Node) -> str:
    operator = node.operator
    name = type(operator).__name__
    if isinstance(operator, operators.Linear) and prod(node.inputs[0].shape[:-1]) == 1:
        name = "row"
    if isinstance(operator, operators.Convolution):
        name = "grouped" if operator.groups > 1 else "pointwise" if operator.pointwise else "dense"
    return name


def _macs(node: Node) -> int:
    operator, x, y = node.operator, node.inputs[0].shape, node.output.shape
    pixels, before = prod(y[2:]), prod(x[2:])
    if isinstance(operator, operators.Convolution):
        return y[0] * pixels * operator.weight.numel()
    if isinstance(operator, operators.Linear):
        return prod(x[:-1]) * operator.weight.numel()
    if isinstance(operator, operators.InvertedResidual):
        behind = [operator.depthwise, *([operator.project] if operator.project else [])]
        first = before * operator.expand.weight.numel() if operator.expand else 0
        return y[0] * (first + pixels * sum(one.weight.numel() for one in behind))
    if isinstance(operator, operators.MatMul):
        return prod(y) * x[-1]
    if isinstance(operator, operators.Attention):
        return 2 * prod(x) * node.inputs[1].shape[-2]
    return 0


def _tensors(held: Any) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    if not dataclasses.is_dataclass(held):
        return []
    return [one for field in dataclasses.fields(held) for one in _tensors(getattr(held, field.name))]


def _plain(held: Any) -> Any:
    """Plain values: of tensors the shapes, of operators the fields that are not the default."""
    if isinstance(held, Tensor):
        return {"shape": list(held.shape)}
    if dataclasses.is_dataclass(held):
        kept = {one.name: getattr(held, one.name) for one in dataclasses.fields(held)}
        defaults = {one.name: one.default for one in dataclasses.fields(held)}
        own = {name: one for name, one in kept.items() if isinstance(one, Tensor) or one != defaults[name]}
        return {"type": type(held).__name__, **{name: _plain(one) for name, one in own.items()}}
    if isinstance(held, tuple):
        return [_plain(one) for one in held]
    return str(held) if isinstance(held, float) and not isfinite(held) else held


def _made(found: Any) -> Any:
    if isinstance(found, Mapping):
        if set(found) == {"shape"}:
            return torch.zeros(found["shape"])
        fields = {name: _made(one) for name, one in found.items() if name != "type"}
        return _TYPES[found["type"]](**fields)
    if isinstance(found, list):
        return tuple(_made(one) for one in found)
    return float(found) if found in ("inf", "-inf") else found
